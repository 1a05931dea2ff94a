//! What gateways that died left goes, what lives or was moved away by hand stays; and what a server
//! answers twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::gateways::{Site, at, bucket, get, put};
use crate::clock::Clock;
use crate::object::{ETagMatch, Precondition, Timestamp};
use crate::shared::claim::Claim;
use crate::shared::presence::{BEAT, DEAD_AFTER};
use crate::shared::upkeep::Watched;
use crate::shared::{Shared, SharedOptions, claim_of, claim_of_bucket};
use crate::volume::{CommitOptions, NewUpload, StageOptions, Staged, Volume};

const LIMIT: Duration = Duration::from_secs(120);

/// A claim as a gateway that is killed leaves it.
fn claimed(on: &Shared, name: &str) -> Claim {
    let claims = &on.inner.claims;
    claims.acquire(claims.stage_held().unwrap(), name).unwrap()
}

/// Another process does it.
fn run(command: &str, from: &Path, to: &Path) -> std::io::Result<()> {
    let status = Command::new(command).arg(from).arg(to).status()?;
    assert!(status.success());
    Ok(())
}

fn files_below(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        found.push(entry.file_name().into_string().unwrap());
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_the_claim_of_a_gateway_that_died_goes_though_nobody_wants_its_key() {
    let site = Site::new().await;
    let (dead, on) = (site.gateway().await, site.gateway().await);
    let claim = claimed(&dead, &claim_of(&at("never-again")));
    claim.create_with(&[7; 100_000]).unwrap();
    std::mem::forget(claim);
    let kept = claimed(&dead, "kept");
    let (mut seen, began) = (BTreeMap::new(), Instant::now());
    while files_below(&site.path(".portico/claims")).len() > 1 {
        assert!(began.elapsed() < LIMIT);
        on.inner.claims.sweep("kept", &mut seen).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    kept.renew().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_removal_of_a_bucket_left_that_died_goes() {
    let site = Site::new().await;
    let on = site.gateway().await;
    let id = on.begin_upload(&at("k"), NewUpload::default()).await;
    let id = id.unwrap().id;
    let mut before = BTreeSet::new();
    let mut sweep = || {
        on.inner.sweep_bucketless(&mut before).unwrap();
        on.inner.sweep_bucketless(&mut before).unwrap();
    };
    // Moved away by hand: it may come back.
    run("mv", &site.path("bucket"), &site.path(".portico/aside")).unwrap();
    sweep();
    run("mv", &site.path(".portico/aside"), &site.path("bucket")).unwrap();
    sweep();
    on.upload(&at("k"), &id).await.unwrap();
    // As a remover leaves it that is killed after rmdir(2).
    std::fs::write(site.path(".portico/keys/bucket"), b"").unwrap();
    std::fs::remove_dir(site.path("bucket")).unwrap();
    sweep();
    for dir in ["keys", "uploads", "buckets"] {
        let left = files_below(&site.path(&format!(".portico/{dir}")));
        assert_eq!(left, Vec::<String>::new(), "{dir}");
    }
    // And as the beginning of an upload does that met it.
    std::fs::create_dir_all(site.path(".portico/uploads/bucket/x")).unwrap();
    sweep();
    assert!(!site.path(".portico/uploads/bucket").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_file_that_never_got_its_name_goes_from_staging() {
    let site = Site::new().await;
    let on = site.gateway().await;
    std::fs::write(site.path(".portico/staging/r1-1"), b"record").unwrap();
    let (mut watched, began) = (Watched::default(), Instant::now());
    let mut look = |n: u32| {
        let strays = BTreeSet::from(["r1-1".to_owned()]);
        let at = began + DEAD_AFTER / 8 * n;
        on.inner.sweep(&mut watched, at, strays).unwrap();
        site.path(".portico/staging/r1-1").exists()
    };
    assert!((0..8).all(&mut look));
    assert!(!look(8));
}

#[test]
fn who_waits_for_claims_keeps_nobody_from_reading() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(3)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let site = Site::new().await;
        let dead = site.gateway().await;
        let on = site.gateway_with(Duration::from_secs(600)).await;
        put(&on, "read", b"bytes").await;
        let keys = || (0..12).map(|n| format!("k{n}"));
        let claims: Vec<Claim> = keys()
            .map(|key| claimed(&dead, &claim_of(&at(&key))))
            .collect();
        let waiting: Vec<_> = keys()
            .map(|key| {
                let on = on.clone();
                tokio::spawn(async move { put(&on, &key, b"new").await })
            })
            .collect();
        for _ in 0..20 {
            assert_eq!(get(&on, "read").await, b"bytes");
        }
        assert!(waiting.iter().all(|put| !put.is_finished()));
        drop(claims);
        for put in waiting {
            put.await.unwrap();
        }
    });
}

/// The one directory that a gateway has staged.
fn staged_by(site: &Site, on: &Shared) -> std::path::PathBuf {
    let home = crate::shared::claim::home_of(on.presence().instance());
    site.path(".portico/staging").join(home)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_rename_was_done_before_it_was_asked_again_is_taken() {
    let site = Site::new().await;
    let on = site.gateway().await;
    let name = claim_of(&at("k"));
    let (home, to) = (
        staged_by(&site, &on),
        site.path(".portico/claims").join(&name),
    );
    let staged = on.stage(&at("k"), StageOptions::default()).await;
    let mut staged = staged.unwrap();
    staged.write(Bytes::from_static(b"bytes")).await.unwrap();
    on.inner
        .tree
        .disk
        .interrupts
        .before("rename to", &name, move || {
            let entry = &files_below(&home)[0];
            run("mv", &home.join(entry), &to)
        });
    staged.commit(CommitOptions::default()).await.unwrap();
    assert!(on.inner.tree.disk.interrupts.are_over());
    assert_eq!(get(&on, "k").await, b"bytes");
    assert_eq!(
        files_below(&site.path(".portico/claims")),
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_made_before_it_was_asked_again_is_no_conflict() {
    let site = Site::new().await;
    let on = site.gateway().await;
    let claim = site.path(".portico/claims").join(claim_of(&at("k")));
    let to = site.path("bucket/k");
    let staged = on.stage(&at("k"), StageOptions::default()).await;
    let mut staged = staged.unwrap();
    staged.write(Bytes::from_static(b"bytes")).await.unwrap();
    on.inner.tree.disk.interrupts.before("link", "k", move || {
        let entry = &files_below(&claim)[0];
        run("ln", &claim.join(entry), &to)
    });
    let options = CommitOptions {
        precondition: Precondition {
            if_none_match: Some(ETagMatch::Any),
            ..Precondition::default()
        },
        ..CommitOptions::default()
    };
    staged.commit(options).await.unwrap();
    assert!(on.inner.tree.disk.interrupts.are_over());
    assert_eq!(get(&on, "k").await, b"bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_clock_is_ahead_keeps_no_names_of_directories() {
    let site = Site::new().await;
    let other = site.gateway().await;
    let clock = Clock::standing(Clock::system().now());
    let mut options = SharedOptions::new(site.path(""));
    options.trusts_dir_times = true;
    options.upkeep_interval = Duration::from_secs(3_600);
    options.clock = clock.clone();
    let on = Shared::open(options).await.unwrap();
    let mut watched = Watched::default();
    let mut keeps_after_a_beat_of_the_other = || {
        on.inner.look_at_gateways(&mut watched).unwrap();
        other.inner.presence.beat().unwrap();
        on.inner.look_at_gateways(&mut watched).unwrap();
        on.inner.names.keeps()
    };
    clock.set(Clock::system().now());
    assert!(keeps_after_a_beat_of_the_other());
    let ahead = Duration::from_secs(60) + BEAT;
    let ahead_ns = i64::try_from(ahead.as_nanos()).unwrap();
    clock.set(Timestamp(Clock::system().now().0 + ahead_ns));
    assert!(!keeps_after_a_beat_of_the_other());
    clock.set(Clock::system().now());
    // Its own last beat, too, was with the clock ahead, or may have been.
    on.inner.presence.beat().unwrap();
    assert!(keeps_after_a_beat_of_the_other());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_still_runs_is_not_swept() {
    let site = Site::new().await;
    let (dead, on) = (site.gateway().await, site.gateway_with(LIMIT).await);
    let claim = claimed(&dead, &claim_of_bucket(&bucket()));
    let (mut seen, began) = (BTreeMap::new(), Instant::now());
    while began.elapsed() < Duration::from_millis(300) {
        on.inner.claims.sweep("", &mut seen).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    claim.renew().unwrap();
}
