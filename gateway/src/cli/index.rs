//! `portico index`: the listing index of a tree that no server is serving.

use std::path::Path;

use clap::{Args, Subcommand};
use fsstore::brick::inspect::{BucketCheck, Inspector};
use fsstore::brick::{Brick, BrickOptions, RebuildProgress};
use fsstore::name::ObjectKey;
use serde_json::{Value, json};

use super::print::Answer;
use super::serve::{brick_options, progress};
use super::{CommandError, TreeArgs, block_on};

/// `portico index …`
#[derive(Debug, Subcommand)]
pub(super) enum IndexCommand {
    /// Compare the index with the tree; exit code 1 where they differ
    Check(IndexArgs),
    /// Build the index anew from the tree
    Rebuild(IndexArgs),
}

/// `portico index check`, `portico index rebuild`
#[derive(Debug, Args)]
pub(super) struct IndexArgs {
    #[command(flatten)]
    tree: TreeArgs,
}

/// Runs `portico index …`. Errors: a server is running.
pub(super) fn run(command: IndexCommand) -> Result<(), CommandError> {
    let (IndexCommand::Check(args) | IndexCommand::Rebuild(args)) = &command;
    let (layout, config) = args.tree.resolve()?;
    layout.served_before()?;
    let _lock = layout.lock()?;
    let options = brick_options(&layout, &config);
    match command {
        IndexCommand::Check(_) => check(options, args.tree.json),
        IndexCommand::Rebuild(_) => rebuild(options, args.tree.json),
    }
}

fn check(options: BrickOptions, json: bool) -> Result<(), CommandError> {
    let inspector = Inspector::open(&options.root, options.durability)?;
    let checks = block_on(inspector.check_index())??;
    let answer = Answer::Many {
        columns: &["bucket", "objects", "missing", "extra", "stale", "examples"],
        rows: checks.iter().map(row).collect(),
    };
    answer.print(json)?;
    match checks.iter().filter(|check| !check.is_true()).count() {
        0 => Ok(()),
        n => Err(CommandError::new(format!(
            "the index differs from the tree in {n} buckets; the next start puts it right"
        ))),
    }
}

fn row(check: &BucketCheck) -> Vec<Value> {
    let examples: Vec<&str> = check.examples.iter().map(ObjectKey::as_str).collect();
    vec![
        json!(check.bucket.as_str()),
        json!(check.objects),
        json!(check.missing),
        json!(check.extra),
        json!(check.stale),
        json!(examples),
    ]
}

/// Removes the index and lets a brick build it as at any start.
fn rebuild(options: BrickOptions, json: bool) -> Result<(), CommandError> {
    let index = options.root.join(fsstore::keypath::RESERVED).join("index");
    remove_index(&index)?;
    let done = block_on(async {
        let brick = Brick::open(options).await?;
        let mut progress = brick.progress();
        let showing = tokio::spawn(progress::show(brick.progress()));
        let done = progress.wait_for(|now| now.done).await;
        let done = done.map_or_else(|_| RebuildProgress::default(), |now| now.clone());
        showing.abort();
        brick.close().await?;
        Ok::<_, CommandError>(done)
    })??;
    Answer::One(vec![
        ("objects", json!(done.objects)),
        ("done", json!(done.done)),
    ])
    .print(json)
}

fn remove_index(dir: &Path) -> Result<(), CommandError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let shown = dir.display();
            Err(CommandError::new(format!("cannot remove {shown}: {error}")))
        }
        _ => Ok(()),
    }
}
