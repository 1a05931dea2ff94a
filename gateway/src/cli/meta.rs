//! `portico meta`: what portico knows of a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use fsstore::brick::inspect::{Described, Inspector, locate};
use fsstore::name::hex;
use fsstore::object::{DigestAlgorithm, Locator};
use serde_json::{Value, json};

use super::CommandError;
use super::print::Answer;
use super::user::rfc3339;

/// `portico meta`
#[derive(Debug, Args)]
pub(super) struct MetaArgs {
    /// A file in a volume
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Runs `portico meta`.
pub(super) fn run(args: &MetaArgs) -> Result<(), CommandError> {
    let shown = args.path.display();
    if let Err(error) = args.path.symlink_metadata() {
        return Err(CommandError::new(format!(
            "cannot look at {shown}: {error}"
        )));
    }
    let Some((root, at)) = locate(&args.path)? else {
        return Err(CommandError::new(format!(
            "{shown} is no object of a volume"
        )));
    };
    let inspector = Inspector::open(&root, Default::default())?;
    let described = inspector.describe(&at).map_err(|error| {
        CommandError::new(format!("{shown}, {}/{}: {error}", at.bucket, at.key))
    })?;
    Answer::One(fields(&at, &described)).print(args.json)
}

fn fields(at: &Locator, described: &Described) -> Vec<(&'static str, Value)> {
    let info = &described.info;
    let attrs = &info.attrs;
    let checksum = info.checksum.as_ref().map(|sum| {
        let value = STANDARD.encode(&sum.value);
        format!("{} {value}", algorithm_name(sum.algorithm))
    });
    vec![
        ("bucket", json!(at.bucket.as_str())),
        ("key", json!(at.key.as_str())),
        ("len_bytes", json!(info.len_bytes)),
        ("modified", json!(rfc3339(info.modified))),
        ("etag", json!(info.etag.as_str())),
        ("etag_is_provisional", json!(info.etag.is_provisional())),
        ("md5", json!(info.digests.md5.map(|md5| hex(&md5)))),
        (
            "crc64nvme",
            json!(
                info.digests
                    .crc64nvme
                    .map(|crc| STANDARD.encode(crc.to_be_bytes()))
            ),
        ),
        ("checksum", json!(checksum)),
        ("parts", json!(info.part_count)),
        ("owner", json!(attrs.owner)),
        ("acl", json!(attrs.acl)),
        ("headers", pairs(&attrs.system)),
        ("metadata", pairs(&attrs.user)),
        ("tags", pairs(&attrs.tags)),
        ("inode", json!(described.ino)),
        ("has_record", json!(described.has_record)),
        ("is_escaped", json!(described.is_escaped)),
    ]
}

fn pairs(map: &BTreeMap<String, String>) -> Value {
    json!(map)
}

fn algorithm_name(algorithm: DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Md5 => "MD5",
        DigestAlgorithm::Crc32 => "CRC32",
        DigestAlgorithm::Crc32c => "CRC32C",
        DigestAlgorithm::Crc64Nvme => "CRC64NVME",
        DigestAlgorithm::Sha1 => "SHA1",
        DigestAlgorithm::Sha256 => "SHA256",
    }
}
