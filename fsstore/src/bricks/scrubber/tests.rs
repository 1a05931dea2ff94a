use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;

use super::{ScrubState, ScrubStatus, Scrubber};
use crate::brick::scrub::{Scrubbed, Verdict};
use crate::brick::{Brick, BrickOptions, HashPolicy};
use crate::bricks::pace::Limits;
use crate::by_bucket::ByBucket;
use crate::clock::Clock;
use crate::name::{BucketName, ObjectKey};
use crate::object::{Locator, Timestamp};
use crate::volume::{CommitOptions, NewBucket, StageOptions, Staged, Volume};

const LONG: Duration = Duration::from_secs(20);

async fn brick(root: &Path) -> Brick {
    let options = BrickOptions {
        hash: ByBucket {
            default: HashPolicy::Never,
            buckets: std::collections::BTreeMap::new(),
        },
        watch: false,
        ..BrickOptions::new(root)
    };
    let brick = Brick::open(options).await.unwrap();
    let bucket = BucketName::parse("b").unwrap();
    brick
        .create_bucket(&bucket, NewBucket::default())
        .await
        .unwrap();
    for key in ["one", "three", "two"] {
        let at = Locator::new(bucket.clone(), ObjectKey::parse(key).unwrap());
        let mut staged = brick.stage(&at, StageOptions::default()).await.unwrap();
        staged.write(Bytes::from(vec![7; 100_000])).await.unwrap();
        staged.commit(CommitOptions::default()).await.unwrap();
    }
    brick
}

fn open(own: &Path, brick: &Brick, limits: Limits) -> (Scrubber, Receiver<(u32, Scrubbed)>) {
    let clock = Clock::standing(Timestamp::from_secs(1_000));
    open_at(own, brick, (limits, Duration::ZERO), clock)
}

fn open_at(
    own: &Path,
    brick: &Brick,
    pace: (Limits, Duration),
    clock: Clock,
) -> (Scrubber, Receiver<(u32, Scrubbed)>) {
    let (tell, told) = channel();
    let bricks = vec![(4, brick.clone())];
    let scrubber = Scrubber::open(
        own,
        pace,
        clock,
        move || bricks.clone(),
        move |number, object| {
            let _ = tell.send((number, object.clone()));
            object.verdict == Verdict::Changed
        },
    );
    (scrubber.unwrap(), told)
}

fn until(scrubber: &Scrubber, is_so: impl Fn(&ScrubStatus) -> bool) -> ScrubStatus {
    let begun = std::time::Instant::now();
    loop {
        let status = scrubber.status();
        if is_so(&status) {
            return status;
        }
        assert!(begun.elapsed() < LONG, "{status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_tells_what_is_not_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let brick = brick(&dir.path().join("brick")).await;
    std::fs::write(dir.path().join("brick/b/three"), vec![8; 100_000]).unwrap();
    let (scrubber, told) = open(&dir.path().join("own"), &brick, Limits::default());
    assert_eq!(scrubber.status().state, ScrubState::Idle);
    scrubber.start().unwrap();
    let status = until(&scrubber, |status| status.state == ScrubState::Idle);
    let scrub = &status.bricks[0];
    assert_eq!(
        (scrub.brick, scrub.objects, scrub.read_bytes),
        (4, 3, 300_000)
    );
    assert_eq!((scrub.changed, scrub.rotten, scrub.is_done), (1, 0, true));
    assert_eq!((status.begun_s, status.ended_s), (1_000, 1_000));
    assert_eq!(
        (&*status.named[0].key, status.named[0].is_mended),
        ("three", true)
    );
    assert_eq!(scrub.mended, 1);
    let (number, object) = told.recv_timeout(LONG).unwrap();
    assert_eq!((number, object.verdict), (4, Verdict::Changed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_is_paused_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    let brick = brick(&dir.path().join("brick")).await;
    // The first goes at once, the second after an hour.
    let slow = Limits {
        bytes_per_s: 28,
        operations_per_s: 0,
    };
    let (scrubber, _) = open(&own, &brick, Limits::default());
    scrubber.pause().unwrap();
    assert_eq!(
        scrubber.status().state,
        ScrubState::Idle,
        "nothing to be paused"
    );
    drop(scrubber);
    let (scrubber, _) = open(&own, &brick, slow);
    scrubber.start().unwrap();
    scrubber.pause().unwrap();
    assert_eq!(scrubber.status().state, ScrubState::Paused);
    scrubber.close();
    // Paused it stays, over a restart too.
    let (scrubber, _) = open(&own, &brick, Limits::default());
    assert_eq!(scrubber.status().state, ScrubState::Paused);
    scrubber.start().unwrap();
    let status = until(&scrubber, |status| status.state == ScrubState::Idle);
    assert_eq!(status.bricks[0].objects, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_that_a_server_ended_in_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    let brick = brick(&dir.path().join("brick")).await;
    let slow = Limits {
        bytes_per_s: 0,
        operations_per_s: 1,
    };
    let (scrubber, _) = open(&own, &brick, slow);
    scrubber.start().unwrap();
    until(&scrubber, |status| {
        status.bricks.first().is_some_and(|brick| brick.objects > 0)
    });
    scrubber.close();
    let before = scrubber.status();
    drop(scrubber);
    assert!(before.bricks[0].objects < 3, "{before:?}");
    let (scrubber, _) = open(&own, &brick, Limits::default());
    let status = until(&scrubber, |status| status.state == ScrubState::Idle);
    assert_eq!(status.bricks[0].objects, 3, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_begins_by_itself_when_it_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    let brick = brick(&dir.path().join("brick")).await;
    let pace = (Limits::default(), Duration::from_secs(100));
    let at = |secs| Clock::standing(Timestamp::from_secs(secs));
    let (scrubber, _) = open_at(&own, &brick, pace, at(1_000));
    until(&scrubber, |status| status.waiting_since_s == 1_000);
    drop(scrubber);
    // Restarts do not put it off.
    let clock = at(1_099);
    let (scrubber, told) = open_at(&own, &brick, pace, clock.clone());
    until(&scrubber, |status| status.waiting_since_s == 1_000);
    assert_eq!(scrubber.status().begun_s, 0);
    clock.set(Timestamp::from_secs(1_100));
    let status = until(&scrubber, |status| status.ended_s == 1_100);
    assert_eq!((status.begun_s, status.bricks[0].objects), (1_100, 3));
    clock.set(Timestamp::from_secs(1_200));
    until(&scrubber, |status| status.ended_s == 1_200);
    assert!(told.try_recv().is_err(), "nothing was bad");
}
