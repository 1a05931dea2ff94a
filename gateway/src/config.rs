//! The configuration file: one TOML document to typed settings. Each section's struct lives
//! beside the component that it configures; this module assembles them and makes errors that
//! name the key, the line and the nearest key that exists.
//!
//! Precedence, decided in [`crate::cli::serve`]: flag, then environment, then file, then default.
//! Every key `a.b_c` is also the flag `--a-b-c` and the variable `PORTICO_A_B_C`, except the
//! tables `[[user]]` and `[bucket.NAME]`, which only a file can hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fsstore::by_bucket::ByBucket;
use fsstore::volume::Durability;
use serde::Deserialize;
use serde::de::Deserializer;

use crate::logs::LogConfig;
use crate::server::Limits;
use crate::tls::TlsConfig;
use crate::users::{RootKeys, Secret, UserConfig};

mod upkeep;

pub use upkeep::{MetricsConfig, ScrubConfig};

/// Where the server listens unless it is told otherwise: this machine only, because the first
/// start has no TLS. The port is the one that Ceph's gateway made known for S3.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7480);
/// Copies that a volume of several bricks keeps unless it is told otherwise.
pub const DEFAULT_REPLICAS: usize = 2;
/// Most copies a volume may keep: as many as a group of names may have.
pub const MAX_REPLICAS: usize = 7;
/// Longest configuration file read, in bytes.
const MAX_CONFIG_LEN_BYTES: u64 = 16 << 20;

/// Everything `portico serve` can be told.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory that holds the volume and portico's own state.
    pub dir: Option<PathBuf>,
    /// Whether other gateways serve the directory too, on a file system that hosts share.
    pub shared: bool,
    /// Whether that is done though `portico doctor` has not passed the file system.
    pub shared_unproven: bool,
    /// Directories on several disks that keep the volume instead; `dir` is then the server's own.
    pub brick: Vec<PathBuf>,
    /// Copies of everything, on different bricks, in a volume that the first start makes.
    pub replicas: usize,
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// The region of this server, as clients are told it.
    pub region: String,
    /// Host names below which a first label is taken for a bucket (virtual-host style).
    pub domains: Vec<String>,
    /// What a 200 on a write means, where a bucket says nothing else.
    pub durability: Durability,
    /// When digests of files made behind portico's back are computed.
    pub hash: HashPolicy,
    /// Whether files get the modification time that S3 clients' metadata carry.
    pub apply_mtime: bool,
    /// Shortest pause between two looks at the whole tree, by which listings learn of changes
    /// made behind portico's back.
    #[serde(deserialize_with = "duration")]
    pub scan_interval: Duration,
    /// Where the tree, or a bucket of it, is mounted by the server: MOUNTPOINT or
    /// MOUNTPOINT:BUCKET.
    pub mount: Vec<String>,
    /// Whether the kernel is asked to tell of such changes, which makes looks at the whole tree
    /// rare.
    pub watch: bool,
    /// Keys of the first user.
    pub root: RootConfig,
    /// Logs.
    pub log: LogConfig,
    /// TLS.
    pub tls: TlsConfig,
    /// How fast everything is read again to find rot.
    pub scrub: ScrubConfig,
    /// Where numbers about the server are told.
    pub metrics: MetricsConfig,
    /// Bounds.
    pub limits: Limits,
    /// Users declared by the file.
    pub user: Vec<UserConfig>,
    /// Settings of single buckets, by name.
    pub bucket: BTreeMap<String, BucketConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: None,
            shared: false,
            shared_unproven: false,
            brick: Vec::new(),
            replicas: DEFAULT_REPLICAS,
            listen: DEFAULT_LISTEN,
            region: "us-east-1".to_owned(),
            domains: Vec::new(),
            durability: Durability::Strict,
            hash: HashPolicy::Background,
            apply_mtime: false,
            scan_interval: Duration::from_secs(1),
            mount: Vec::new(),
            watch: true,
            root: RootConfig::default(),
            log: LogConfig::default(),
            tls: TlsConfig::default(),
            scrub: ScrubConfig::default(),
            metrics: MetricsConfig::default(),
            limits: Limits::default(),
            user: Vec::new(),
            bucket: BTreeMap::new(),
        }
    }
}

/// When the digest of a file is computed that portico did not write itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum HashPolicy {
    /// Soon, one file at a time.
    #[default]
    Background,
    /// The same, and what was written through a mount as soon as it is closed.
    OnClose,
    /// When a request first asks for the object.
    OnRead,
    /// Never: such a file keeps its provisional ETag.
    Never,
}

/// Keys of the first user, in place of keys made at the first start.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootConfig {
    /// Its access key.
    pub access_key: Option<String>,
    /// Its secret key.
    pub secret_key: Option<String>,
}

impl RootConfig {
    /// The keys, where both are given.
    pub fn keys(&self) -> Option<RootKeys> {
        Some(RootKeys {
            access_key: self.access_key.clone()?,
            secret_key: Secret::new(self.secret_key.clone()?),
        })
    }
}

/// A secret never reaches a log.
impl std::fmt::Debug for RootConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootConfig")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// Settings of one bucket; what is absent is as for the volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BucketConfig {
    /// What a 200 on a write means here.
    pub durability: Option<Durability>,
    /// When digests of files made behind portico's back here are computed.
    pub hash: Option<HashPolicy>,
    /// Whether files get the modification time that S3 clients' metadata carry.
    pub apply_mtime: Option<bool>,
    /// Whether a file that a process has locked for writing is not replaced or removed.
    pub respect_locks: bool,
    /// What S3 requests are checked against here.
    pub enforce: Enforce,
}

/// What decides whether a request may do what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforce {
    /// Owners, groups and access lists of S3.
    #[default]
    Policy,
    /// These, and the permissions of files, by the user's uid, gid and gids.
    Posix,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// A key that does not exist.
    #[error(
        "{}:{line}: unknown key `{key}`{}",
        path.display(),
        nearest.as_ref().map(|n| format!("; the nearest known key is `{n}`")).unwrap_or_default()
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key as it stands in the file.
        key: String,
        /// The known key of the same table that looks most like it.
        nearest: Option<String>,
    },
    /// Not TOML, or a value of another type than the key takes.
    #[error("{}:{line}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Values that are well formed but do not go together.
    #[error("{0}")]
    Contradiction(String),
}

impl Config {
    /// Reads a configuration file. Errors: Read, UnknownKey, Invalid.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = |path: &Path| {
            let len_bytes = std::fs::metadata(path)?.len();
            if len_bytes > MAX_CONFIG_LEN_BYTES {
                return Err(std::io::Error::other(format!(
                    "{len_bytes} bytes long, the limit is {MAX_CONFIG_LEN_BYTES}"
                )));
            }
            std::fs::read_to_string(path)
        };
        let text = read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads a configuration from text; `path` is for messages. Errors: UnknownKey, Invalid.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| explain(&error, text, path))
    }

    /// What holds where, of a setting that buckets may have of their own.
    pub fn by_bucket<T>(
        &self,
        default: T,
        own: impl Fn(&BucketConfig) -> Option<T>,
    ) -> ByBucket<T> {
        let buckets = self.bucket.iter();
        ByBucket {
            default,
            buckets: buckets
                .filter_map(|(name, bucket)| Some((name.clone(), own(bucket)?)))
                .collect(),
        }
    }

    /// Checks what single values cannot show. Errors: Contradiction.
    pub fn check(&self) -> Result<(), ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return contradiction("tls.cert and tls.key are given together or not at all".into());
        }
        if self.root.access_key.is_some() != self.root.secret_key.is_some() {
            return contradiction(
                "root.access_key and root.secret_key are given together or not at all".into(),
            );
        }
        if self.region.is_empty() {
            return contradiction("region is empty".into());
        }
        if !(1..=MAX_REPLICAS).contains(&self.replicas) {
            return contradiction(format!("replicas is not from 1 to {MAX_REPLICAS}"));
        }
        if self.scan_interval.is_zero() {
            return contradiction("scan_interval is zero".into());
        }
        for name in self.bucket.keys() {
            if let Err(error) = fsstore::name::BucketName::parse(name) {
                return contradiction(format!("[bucket.{name}]: {error}"));
            }
        }
        self.limits.check().map_err(ConfigError::Contradiction)
    }
}

/// Turns an error of the TOML reader into one that names the key and the nearest known one.
fn explain(error: &toml::de::Error, text: &str, path: &Path) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start);
    let line = 1 + text
        .bytes()
        .take(start)
        .filter(|byte| *byte == b'\n')
        .count();
    match unknown_field(error.message()) {
        Some((key, known)) => ConfigError::UnknownKey {
            path: path.to_owned(),
            line,
            nearest: nearest(key, &known).map(str::to_owned),
            key: key.to_owned(),
        },
        None => ConfigError::Invalid {
            path: path.to_owned(),
            line,
            message: error.message().to_owned(),
        },
    }
}

/// The unknown field and the known ones, where a message is serde's of that kind:
/// "unknown field `a`, expected one of `b`, `c`".
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect();
    Some((key, known))
}

/// The word of `known` with the smallest edit distance to `word`.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .copied()
        .min_by_key(|candidate| edit_distance(word, candidate))
}

/// Levenshtein's distance: insertions, deletions and substitutions, in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Reads a length of time: a whole number and `ms`, `s`, `m`, `h` or `d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let total_ms = number
        .parse::<u64>()
        .ok()
        .filter(|_| unit_ms > 0)
        .and_then(|n| n.checked_mul(unit_ms));
    total_ms.map(Duration::from_millis).ok_or_else(|| {
        format!("`{text}` is no length of time: write a whole number and ms, s, m, h or d (30s)")
    })
}

/// The annotated file with its commented-out keys in force: for tests.
#[cfg(test)]
pub(crate) fn uncomment(text: &str) -> String {
    let is_key = |rest: &str| {
        let name = rest.split(" = ").next().unwrap_or_default();
        rest.starts_with('[') || name.len() < rest.len() && !name.contains(' ')
    };
    text.lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if is_key(rest) => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// For serde: a length of time as [`parse_duration`] reads it.
pub(crate) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("p.toml"))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
        Config::default().check().unwrap();
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let cases = [
            (
                "region = \"x\"\nlisen = \"0.0.0.0:80\"",
                "p.toml:2: unknown key `lisen`; the nearest known key is `listen`",
            ),
            (
                "[tls]\nsert = \"a\"",
                "p.toml:2: unknown key `sert`; the nearest known key is `cert`",
            ),
            (
                "[bucket.logs]\ndurabilty = \"strict\"",
                "p.toml:2: unknown key `durabilty`; the nearest known key is `durability`",
            ),
            (
                "[[user]]\nnam = \"x\"",
                "p.toml:2: unknown key `nam`; the nearest known key is `name`",
            ),
            (
                "[lgo]\nlevel = \"info\"",
                "p.toml:1: unknown key `lgo`; the nearest known key is `log`",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_value_of_another_type_is_named_with_its_line() {
        let message = parse("\n\nregion = 3").unwrap_err().to_string();
        assert!(message.starts_with("p.toml:3: "), "{message}");
        let message = parse("scan_interval = \"soon\"").unwrap_err().to_string();
        assert!(message.contains("`soon` is no length of time"), "{message}");
        let message = parse("durability = \"most\"").unwrap_err().to_string();
        assert!(message.contains("strict"), "{message}");
    }

    #[test]
    fn halves_of_a_pair_are_refused() {
        for text in [
            "[tls]\ncert = \"c\"",
            "[root]\naccess_key = \"a\"",
            "[bucket.\"a/b\"]\n",
            "[limits]\nconnections = 0",
            "replicas = 0",
            "replicas = 8",
        ] {
            assert!(parse(text).unwrap().check().is_err(), "{text}");
        }
    }

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "5", "s", "-1s", "1.5s", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_file_under_config_parses_and_holds_together() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
        let mut count = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "toml") {
                let config = Config::read(&path).unwrap_or_else(|e| panic!("{e}"));
                config.check().unwrap();
                count += 1;
            }
        }
        assert!(count >= 3);
    }

    #[test]
    fn the_annotated_file_gives_every_key_with_its_default() {
        let annotated = include_str!("../../config/portico.toml");
        assert_eq!(parse(annotated).unwrap(), Config::default());
        let all: toml::Table = toml::from_str(&uncomment(annotated)).unwrap();
        let table = |name: &str| all[name].as_table().unwrap();
        known_keys::<Config>(&all);
        known_keys::<RootConfig>(table("root"));
        known_keys::<TlsConfig>(table("tls"));
        known_keys::<LogConfig>(table("log"));
        known_keys::<Limits>(table("limits"));
        known_keys::<ScrubConfig>(table("scrub"));
        known_keys::<MetricsConfig>(table("metrics"));
        known_keys::<BucketConfig>(table("bucket")["scratch"].as_table().unwrap());
        known_keys::<UserConfig>(all["user"][0].as_table().unwrap());
    }

    /// Every key that a struct takes, as serde lists them, stands in the table.
    fn known_keys<T: serde::de::DeserializeOwned + std::fmt::Debug>(table: &toml::Table) {
        let mut strange = table.clone();
        strange.insert("no_such_key".to_owned(), true.into());
        let error = T::deserialize(strange).unwrap_err();
        let (_, known) = unknown_field(error.message()).unwrap();
        for key in &known {
            assert!(table.contains_key(*key), "config/portico.toml lacks {key}");
        }
        assert!(!known.is_empty());
    }

    #[test]
    fn a_secret_is_not_printed() {
        let config = parse(
            "[root]\naccess_key = \"AK\"\nsecret_key = \"hush\"\n\
             [[user]]\nname = \"u\"\nkeys = [{ access_key = \"B\", secret_key = \"hush\" }]",
        )
        .unwrap();
        assert!(!format!("{config:?}").contains("hush"));
    }
}
