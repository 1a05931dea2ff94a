//! The options of `portico serve`, and how they go over the configuration file.
//!
//! Key `a.b_c`, flag `--a-b-c` and variable `PORTICO_A_B_C` are one option; the tests hold
//! every flag to that.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use fsstore::volume::Durability;

use crate::config::{Config, ConfigError, HashPolicy, nearest, parse_duration};
use crate::logs::LogFormat;

/// What `portico serve` takes. What is absent is as the file says, else as the default.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// The directory to serve; made if it is not there [key: dir]
    #[arg(value_name = "DIR", env = "PORTICO_DIR")]
    dir: Option<PathBuf>,
    /// A directory on a disk of its own that keeps the volume together with other such; give it
    /// again for each, or separate them by commas. DIR is then the server's own directory
    /// [default: /var/lib/portico for root]
    #[arg(
        long,
        value_name = "BRICK",
        env = "PORTICO_BRICK",
        value_delimiter = ','
    )]
    brick: Option<Vec<PathBuf>>,
    /// Copies of everything on different bricks, where the first start makes the volume [default: 2]
    #[arg(long, value_name = "N", env = "PORTICO_REPLICAS")]
    replicas: Option<usize>,
    /// Configuration file; config/portico.toml names every key
    #[arg(long, value_name = "FILE", env = "PORTICO_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Serve DIR beside other gateways, on a file system that hosts share [default: false]
    #[arg(long, value_name = "BOOL", env = "PORTICO_SHARED", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    shared: Option<bool>,
    /// Do so though `portico doctor` has not passed the file system [default: false]
    #[arg(long, value_name = "BOOL", env = "PORTICO_SHARED_UNPROVEN", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    shared_unproven: Option<bool>,
    /// Address and port to listen on [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDR", env = "PORTICO_LISTEN")]
    listen: Option<SocketAddr>,
    /// Region of this server, as clients are told it [default: us-east-1]
    #[arg(long, value_name = "NAME", env = "PORTICO_REGION")]
    region: Option<String>,
    /// Host names whose first label may be a bucket (BUCKET.NAME), separated by commas
    #[arg(
        long,
        value_name = "NAME",
        env = "PORTICO_DOMAINS",
        value_delimiter = ','
    )]
    domains: Option<Vec<String>>,

    /// What a 200 on a write means: `strict` survives power loss [default: strict]
    #[arg(long, env = "PORTICO_DURABILITY", value_parser = durability,
          value_name = "strict|relaxed", help_heading = "Data")]
    durability: Option<Durability>,
    /// When files made behind portico's back are hashed [default: background]
    #[arg(long, env = "PORTICO_HASH", value_name = "WHEN", help_heading = "Data")]
    hash: Option<HashPolicy>,
    /// Give files the modification time that S3 clients' metadata carry [default: false]
    #[arg(
        long,
        env = "PORTICO_APPLY_MTIME",
        value_name = "BOOL",
        help_heading = "Data"
    )]
    apply_mtime: Option<bool>,
    /// Shortest pause between two looks for such files at the whole tree [default: 1s]
    #[arg(long, env = "PORTICO_SCAN_INTERVAL", value_parser = parse_duration,
          value_name = "TIME", help_heading = "Data")]
    scan_interval: Option<Duration>,
    /// Mount the tree here too, or one bucket of it; several separated by commas
    #[arg(
        long,
        env = "PORTICO_MOUNT",
        value_name = "MOUNTPOINT[:BUCKET]",
        value_delimiter = ',',
        help_heading = "Data"
    )]
    mount: Option<Vec<String>>,

    /// Ask the kernel to tell of such changes, so that the whole tree is seldom looked at
    /// [default: true]
    #[arg(
        long,
        env = "PORTICO_WATCH",
        value_name = "BOOL",
        help_heading = "Data"
    )]
    watch: Option<bool>,

    /// Access key of the first user, in place of one made at the first start
    #[arg(
        long,
        env = "PORTICO_ROOT_ACCESS_KEY",
        value_name = "KEY",
        hide_env_values = true,
        help_heading = "Keys"
    )]
    root_access_key: Option<String>,
    /// Its secret key; better by the variable, for flags show in the process list
    #[arg(
        long,
        env = "PORTICO_ROOT_SECRET_KEY",
        value_name = "SECRET",
        hide_env_values = true,
        help_heading = "Keys"
    )]
    root_secret_key: Option<String>,

    /// PEM file of the certificate chain; with --tls-key, the server speaks TLS only
    #[arg(
        long,
        env = "PORTICO_TLS_CERT",
        value_name = "FILE",
        help_heading = "TLS"
    )]
    tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(
        long,
        env = "PORTICO_TLS_KEY",
        value_name = "FILE",
        help_heading = "TLS"
    )]
    tls_key: Option<PathBuf>,

    /// Form of log lines [default: text]
    #[arg(
        long,
        env = "PORTICO_LOG_FORMAT",
        value_name = "FORM",
        help_heading = "Logs"
    )]
    log_format: Option<LogFormat>,
    /// A level, or directives [default: info,portico::access=warn, no line per request]
    #[arg(
        long,
        env = "PORTICO_LOG_LEVEL",
        value_name = "LEVEL",
        help_heading = "Logs"
    )]
    log_level: Option<String>,

    /// Address and port where numbers are told to Prometheus, at /metrics [default: none]
    #[arg(long, env = "PORTICO_METRICS_LISTEN", value_name = "ADDR:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// How long after a scrub the next begins; 0s is never [default: 30d]
    #[arg(
        long,
        env = "PORTICO_SCRUB_EVERY",
        value_name = "TIME",
        value_parser = parse_duration,
        help_heading = "Limits"
    )]
    scrub_every: Option<Duration>,
    /// MiB a second that a scrub reads; 0 is no bound [default: 50]
    #[arg(
        long,
        env = "PORTICO_SCRUB_MIB_PER_S",
        value_name = "N",
        help_heading = "Limits"
    )]
    scrub_mib_per_s: Option<u64>,
    /// Files, and further MiB of them, a second that a scrub reads [default: 0, no bound]
    #[arg(
        long,
        env = "PORTICO_SCRUB_READS_PER_S",
        value_name = "N",
        help_heading = "Limits"
    )]
    scrub_reads_per_s: Option<u64>,
    /// Most connections open [default: 4096]
    #[arg(
        long,
        env = "PORTICO_LIMITS_CONNECTIONS",
        value_name = "N",
        help_heading = "Limits"
    )]
    limits_connections: Option<usize>,
    /// Most requests under way; further ones are answered 503 [default: 1024]
    #[arg(
        long,
        env = "PORTICO_LIMITS_IN_FLIGHT",
        value_name = "N",
        help_heading = "Limits"
    )]
    limits_in_flight: Option<usize>,
    /// Longest time for a handshake, for headers, and without a request [default: 60s]
    #[arg(long, env = "PORTICO_LIMITS_HEADER_TIMEOUT", value_parser = parse_duration,
          value_name = "TIME", help_heading = "Limits")]
    limits_header_timeout: Option<Duration>,
    /// Longest time in which a client neither sends nor takes a byte of a body [default: 60s]
    #[arg(long, env = "PORTICO_LIMITS_STALL_TIMEOUT", value_parser = parse_duration,
          value_name = "TIME", help_heading = "Limits")]
    limits_stall_timeout: Option<Duration>,
    /// Longest time that requests under way get when the server stops [default: 30s]
    #[arg(long, env = "PORTICO_LIMITS_DRAIN_TIMEOUT", value_parser = parse_duration,
          value_name = "TIME", help_heading = "Limits")]
    limits_drain_timeout: Option<Duration>,
    /// Most threads that wait for the disk [default: 128]
    #[arg(
        long,
        env = "PORTICO_LIMITS_DISK_THREADS",
        value_name = "N",
        help_heading = "Limits"
    )]
    limits_disk_threads: Option<usize>,
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "strict" => Ok(Durability::Strict),
        "relaxed" => Ok(Durability::Relaxed),
        _ => Err("strict or relaxed".to_owned()),
    }
}

impl ServeArgs {
    /// The configuration as it holds: flag, else variable, else file, else default.
    pub(super) fn resolve(self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        self.apply(&mut config);
        config.check()?;
        Ok(config)
    }

    fn apply(self, config: &mut Config) {
        fn set<T>(to: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *to = value;
            }
        }
        fn set_some<T>(to: &mut Option<T>, value: Option<T>) {
            if value.is_some() {
                *to = value;
            }
        }
        let Config {
            dir,
            shared,
            shared_unproven,
            brick,
            replicas,
            listen,
            region,
            domains,
            durability,
            hash,
            apply_mtime,
            scan_interval,
            mount,
            watch,
            root,
            log,
            tls,
            scrub,
            metrics,
            limits,
            user: _,
            bucket: _,
        } = config;
        set_some(dir, self.dir);
        set(shared, self.shared);
        set(shared_unproven, self.shared_unproven);
        set(brick, self.brick);
        set(replicas, self.replicas);
        set(listen, self.listen);
        set(region, self.region);
        set(domains, self.domains);
        set(durability, self.durability);
        set(hash, self.hash);
        set(apply_mtime, self.apply_mtime);
        set(scan_interval, self.scan_interval);
        set(mount, self.mount);
        set(watch, self.watch);
        // A variable set to nothing, as `docker run -e` leaves it, gives no key.
        let is_given = |key: &String| !key.is_empty();
        set_some(&mut root.access_key, self.root_access_key.filter(is_given));
        set_some(&mut root.secret_key, self.root_secret_key.filter(is_given));
        set_some(&mut tls.cert, self.tls_cert);
        set_some(&mut tls.key, self.tls_key);
        set(&mut log.format, self.log_format);
        set(&mut log.level, self.log_level);
        set_some(&mut metrics.listen, self.metrics_listen);
        set(&mut scrub.every, self.scrub_every);
        set(&mut scrub.mib_per_s, self.scrub_mib_per_s);
        set(&mut scrub.reads_per_s, self.scrub_reads_per_s);
        set(&mut limits.connections, self.limits_connections);
        set(&mut limits.in_flight, self.limits_in_flight);
        set(&mut limits.header_timeout, self.limits_header_timeout);
        set(&mut limits.stall_timeout, self.limits_stall_timeout);
        set(&mut limits.drain_timeout, self.limits_drain_timeout);
        set(&mut limits.disk_threads, self.limits_disk_threads);
    }
}

/// Variables that begin with PORTICO_ but are no option, each with the nearest that is one.
pub(super) fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<(String, String)> {
    use clap::CommandFactory;
    let command = super::super::Cli::command();
    let serve = command.find_subcommand("serve");
    let known: Vec<&str> = serve
        .into_iter()
        .flat_map(clap::Command::get_arguments)
        .filter_map(|arg| arg.get_env()?.to_str())
        .collect();
    names
        .filter(|name| name.starts_with("PORTICO_") && !known.contains(&name.as_str()))
        .filter_map(|name| nearest(&name, &known).map(|near| (name.clone(), near.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn resolve(args: &[&str]) -> Result<Config, ConfigError> {
        let all = ["portico"].iter().chain(args);
        Only::try_parse_from(all).unwrap().serve.resolve()
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        std::fs::write(
            &file,
            "region = \"from-file\"\n[limits]\nin_flight = 7\nconnections = 8\n",
        )
        .unwrap();
        let config = resolve(&[
            "d",
            "--config",
            file.to_str().unwrap(),
            "--limits-connections",
            "9",
            "--domains",
            "a.test,b.test",
        ])
        .unwrap();
        assert_eq!(config.region, "from-file");
        assert_eq!(config.limits.in_flight, 7);
        assert_eq!(config.limits.connections, 9);
        assert_eq!(config.domains, ["a.test", "b.test"]);
        assert_eq!(config.listen, crate::config::DEFAULT_LISTEN);
        assert_eq!(config.dir, Some(PathBuf::from("d")));
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let error = resolve(&["d", "--tls-cert", "c.pem"]).unwrap_err();
        assert!(error.to_string().contains("tls.key"), "{error}");
    }

    #[test]
    fn every_flag_is_a_variable_and_a_key_of_the_annotated_file() {
        let annotated = include_str!("../../../../config/portico.toml");
        let uncommented = crate::config::uncomment(annotated);
        let table: toml::Table = toml::from_str(&uncommented).unwrap();
        let command = Only::command();
        let mut count = 0;
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            if matches!(id, "help" | "version") {
                continue;
            }
            let variable = format!("PORTICO_{}", id.to_uppercase());
            assert_eq!(arg.get_env().unwrap(), variable.as_str(), "{id}");
            if id != "dir" {
                assert_eq!(arg.get_long().unwrap(), id.replace('_', "-"));
            }
            let in_section = id
                .split_once('_')
                .and_then(|(section, key)| table.get(section)?.as_table()?.get(key));
            assert!(
                id == "config" || table.contains_key(id) || in_section.is_some(),
                "{id} is no key of config/portico.toml"
            );
            count += 1;
        }
        assert!(count > 15);
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_nearest_known_one() {
        let names = ["PORTICO_REGOIN", "PORTICO_REGION", "HOME"];
        let unknown = unknown_variables(names.iter().map(ToString::to_string));
        assert_eq!(
            unknown,
            [("PORTICO_REGOIN".to_owned(), "PORTICO_REGION".to_owned())]
        );
    }
}
