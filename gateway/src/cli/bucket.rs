//! `portico bucket`: looks at buckets, with or without a running server.

use std::sync::Arc;

use clap::{Args, Subcommand};
use fsstore::brick::HashPolicy;
use fsstore::brick::inspect::Inspector;
use fsstore::by_bucket::ByBucket;
use fsstore::name::BucketName;
use fsstore::volume::{BucketInfo, Durability};
use serde_json::{Value, json};

use super::print::Answer;
use super::serve::brick_options;
use super::user::{open_users, rfc3339};
use super::{CommandError, TreeArgs};
use crate::users::Directory;

/// `portico bucket …`
#[derive(Debug, Subcommand)]
pub(super) enum BucketCommand {
    /// List buckets
    Ls(ListArgs),
    /// Look at one bucket and count its objects, by a walk through its tree
    Stat(StatArgs),
}

/// `portico bucket ls`
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    tree: TreeArgs,
}

/// `portico bucket stat`
#[derive(Debug, Args)]
pub(super) struct StatArgs {
    /// The bucket
    name: String,
    #[command(flatten)]
    tree: TreeArgs,
}

/// Runs `portico bucket …`.
pub(super) fn run(command: BucketCommand) -> Result<(), CommandError> {
    match command {
        BucketCommand::Ls(args) => {
            let (inspector, users, hash) = open(&args.tree)?;
            let row =
                |bucket: &BucketInfo| fields(bucket, &users, &hash).map(|(_, value)| value).into();
            let answer = Answer::Many {
                columns: &["name", "owner", "created", "durability", "hash"],
                rows: inspector.buckets()?.iter().map(row).collect(),
            };
            answer.print(args.tree.json)
        }
        BucketCommand::Stat(args) => {
            let (inspector, users, hash) = open(&args.tree)?;
            let name = BucketName::parse(&args.name)?;
            let totals = inspector.totals(&name)?;
            let settings: Vec<&String> = totals.info.settings.keys().collect();
            let mut answer = Vec::from(fields(&totals.info, &users, &hash));
            answer.extend([
                ("objects", json!(totals.objects)),
                ("len_bytes", json!(totals.len_bytes)),
                ("settings", json!(settings)),
            ]);
            Answer::One(answer).print(args.tree.json)
        }
    }
}

/// What answers are made of.
type Opened = (Inspector, Arc<Directory>, ByBucket<HashPolicy>);

fn open(tree: &TreeArgs) -> Result<Opened, CommandError> {
    let (layout, config) = tree.resolve()?;
    layout.served_before()?;
    let options = brick_options(&layout, &config);
    let users = open_users(&layout, config)?.directory();
    let inspector = Inspector::open(&options.root, options.durability)?;
    Ok((inspector, users, options.hash))
}

fn fields(
    bucket: &BucketInfo,
    users: &Directory,
    hash: &ByBucket<HashPolicy>,
) -> [(&'static str, Value); 5] {
    let owner = bucket.owner.as_deref();
    let name = owner
        .and_then(|id| users.user_by_id(id))
        .map(|user| user.name.as_str());
    let durability = match bucket.durability {
        Durability::Strict => "strict",
        Durability::Relaxed => "relaxed",
    };
    [
        ("name", json!(bucket.name.as_str())),
        // A user who is gone leaves its id.
        ("owner", json!(name.or(owner))),
        ("created", json!(rfc3339(bucket.created))),
        ("durability", json!(durability)),
        ("hash", json!(hash.of(&bucket.name))),
    ]
}
