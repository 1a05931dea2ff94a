use std::ffi::OsStr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::super::crashdisk::{Abilities, CrashDisk, Model, Random, World};
use super::super::disk::Disk;
use super::super::intents::{Intent, IntentLog, Ours};
use super::{Committer, Terms};
use crate::error::StoreError;
use crate::files::{FilePath, FilesWatcher};
use crate::name::{BucketName, ObjectKey};

fn committer(disk: &Arc<CrashDisk>) -> Committer<CrashDisk> {
    let root = disk.root();
    let (log, _) = IntentLog::open(Arc::clone(disk), root, None).unwrap();
    Committer::start(Arc::clone(disk), Arc::new(log)).unwrap()
}

fn disk() -> Arc<CrashDisk> {
    let world = World::new().with(Model::Adversary);
    Arc::new(CrashDisk::new(world, Abilities::default()))
}

fn durable() -> Terms<CrashDisk> {
    Terms {
        durable: true,
        file: None,
        keys: Vec::new(),
        removes: false,
    }
}

fn path(name: &str) -> FilePath {
    FilePath::root().join(OsStr::new(name)).unwrap()
}

/// Says what it hears, and waits to be let go on.
struct Slow {
    heard: Mutex<Sender<String>>,
    go_on: Mutex<Receiver<()>>,
}

impl Slow {
    fn start() -> (Arc<dyn FilesWatcher>, Receiver<String>, Sender<()>) {
        let ((heard, hearing), (letting, go_on)) = (channel(), channel());
        let slow = Self {
            heard: Mutex::new(heard),
            go_on: Mutex::new(go_on),
        };
        (Arc::new(slow), hearing, letting)
    }

    fn hear(&self, what: String) {
        self.heard.lock().unwrap().send(what).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
    }
}

impl FilesWatcher for Slow {
    fn name_changed(&self, path: &FilePath) {
        self.hear(path.as_os_str().to_string_lossy().into_owned());
    }

    fn file_changed(&self, ino: u64) {
        self.hear(ino.to_string());
    }

    fn all_changed(&self) {
        self.hear("all".to_owned());
    }
}

#[tokio::test]
async fn who_watches_hears_before_the_author_is_answered() {
    let disk = disk();
    let committer = committer(&disk);
    let (watcher, hearing, letting) = Slow::start();
    committer.watch(&watcher);
    let mut answer = Box::pin(committer.submit(durable(), |turn| {
        turn.named(path("b"));
        Ok(7)
    }));
    assert_eq!(hearing.recv().unwrap(), "b");
    // While the watcher is busy others change names, and what nobody watches is answered.
    committer.act_here(&[], false, |_| ()).unwrap();
    committer.submit(durable(), |_| Ok(())).await.unwrap();
    tokio::select! {
        biased;
        _ = &mut answer => panic!("answered while the watcher was being told"),
        () = tokio::task::yield_now() => {}
    }
    letting.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), 7);
}

#[tokio::test]
async fn who_watches_hears_of_a_change_that_failed_afterwards() {
    let disk = disk();
    let committer = committer(&disk);
    let (watcher, hearing, letting) = Slow::start();
    committer.watch(&watcher);
    let dir = disk.root();
    let cutting = Arc::clone(&disk);
    let answer = committer.submit(durable(), move |turn| {
        turn.changed(&dir);
        turn.named(path("b"));
        cutting.cut_after(0);
        Ok(())
    });
    assert_eq!(hearing.recv().unwrap(), "b");
    letting.send(()).unwrap();
    assert!(matches!(answer.await, Err(StoreError::Io { .. })));
}

#[tokio::test]
async fn a_watcher_that_is_gone_is_not_waited_for() {
    let committer = committer(&disk());
    let (watcher, hearing, _) = Slow::start();
    committer.watch(&watcher);
    drop(watcher);
    let named = committer.submit(durable(), |turn| {
        turn.named(path("b"));
        Ok(())
    });
    named.await.unwrap();
    assert!(hearing.recv().is_err());
}

#[tokio::test]
async fn a_change_on_the_callers_thread_and_a_job_exclude_each_other() {
    let committer = Arc::new(committer(&disk()));
    let ((acting, acts), (letting, go_on)) = (channel(), channel::<()>());
    let job = committer.submit(durable(), move |_| {
        acting.send("job begins").unwrap();
        go_on.recv().unwrap();
        acting.send("job ends").unwrap();
        Ok(())
    });
    assert_eq!(acts.recv().unwrap(), "job begins");
    let (here, other) = (Arc::clone(&committer), channel());
    let thread = std::thread::spawn(move || {
        here.act_here(&[], false, |_| other.0.send("here").unwrap())
            .unwrap();
    });
    assert!(other.1.try_recv().is_err());
    letting.send(()).unwrap();
    job.await.unwrap();
    assert_eq!(acts.recv().unwrap(), "job ends");
    assert_eq!(other.1.recv().unwrap(), "here");
    thread.join().unwrap();
}

#[tokio::test]
async fn nobody_acts_after_the_stop_and_a_panic_stops_nobody() {
    let committer = committer(&disk());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        committer.act_here(&[], false, |_| panic!("on purpose"))
    }));
    assert!(panicked.is_err());
    committer.act_here(&[], false, |_| ()).unwrap();
    committer.submit(durable(), |_| Ok(())).await.unwrap();
    committer.stop();
    let mut acted = false;
    let refused = committer.act_here(&[], false, |_| acted = true);
    assert!(matches!(refused, Err(StoreError::Stopping)) && !acted);
}

/// A directory made by a caller is not durable by itself, but what is published in it is.
#[tokio::test]
async fn a_durable_change_makes_what_it_builds_on_durable() {
    for many in [1, 300] {
        for syncs_everything in [true, false] {
            let abilities = Abilities {
                syncs_everything,
                ..Abilities::default()
            };
            let world = World::new().with(Model::Adversary);
            let disk = Arc::new(CrashDisk::new(world, abilities));
            let committer = committer(&disk);
            let root = disk.root();
            for n in 0..many {
                let made = committer.act_here(&[], false, |turn| {
                    disk.make_dir(&root, &format!("d{n}"), 0o755)?;
                    let dir = disk.open_dir(&root, &format!("d{n}"))?;
                    turn.built(&root);
                    disk.make_dir(&dir, "inner", 0o755)?;
                    turn.built(&dir);
                    std::io::Result::Ok(())
                });
                made.unwrap().unwrap();
            }
            let publishing = Arc::clone(&disk);
            let published = committer.submit(durable(), move |turn| {
                let dir = publishing.open_dir(&publishing.root(), "d0/inner").unwrap();
                let file = publishing.create_unnamed(&dir).unwrap();
                publishing.link(&file, &dir, "f").unwrap();
                turn.changed(&dir);
                Ok(())
            });
            published.await.unwrap();
            for seed in 0..8 {
                let left = disk.world().after_power_cut(&mut Random(seed));
                let paths = left.paths_below("d0");
                assert!(paths.contains(&"d0/inner/f".to_owned()), "{paths:?}");
            }
        }
    }
}

/// What is taken out of a directory that is not durable yet, into one that is not either, is
/// at one of the two after a power cut.
#[tokio::test]
async fn settling_on_the_callers_thread_syncs_what_it_builds_on() {
    let disk = disk();
    let committer = committer(&disk);
    let root = disk.root();
    let file = disk.create_unnamed(&root).unwrap();
    disk.link(&file, &root, "f").unwrap();
    disk.sync_everything().unwrap();
    let made = committer.act_here(&[], false, |turn| {
        disk.make_dir(&root, "d", 0o755).unwrap();
        turn.built(&root);
    });
    made.unwrap();
    let moved = committer.act_here(&[], false, |turn| {
        let dir = disk.open_dir(&root, "d").unwrap();
        turn.settle().unwrap();
        disk.rename(&root, "f", &dir, "f").unwrap();
    });
    moved.unwrap();
    for seed in 0..16 {
        let left = disk.world().after_power_cut(&mut Random(seed));
        let left = CrashDisk::new(left, Abilities::default());
        let (at_root, in_dir) = (left.stat(&left.root(), "f"), left.stat(&left.root(), "d/f"));
        assert!(at_root.is_ok() || in_dir.is_ok(), "lost with seed {seed}");
    }
}

#[tokio::test]
async fn a_key_changed_on_the_callers_thread_is_in_the_log() {
    let disk = disk();
    let (log, _) = IntentLog::open(Arc::clone(&disk), disk.root(), None).unwrap();
    let log = Arc::new(log);
    let committer = Committer::start(Arc::clone(&disk), Arc::clone(&log)).unwrap();
    let key = (
        BucketName::parse("bucket").unwrap(),
        ObjectKey::parse("k").unwrap(),
    );
    let was_empty = committer
        .act_here(std::slice::from_ref(&key), false, |_| log.is_empty())
        .unwrap();
    assert!(!was_empty, "before the change");
    let mut replayed = Vec::new();
    log.replay(0, |intent| replayed.push(intent)).unwrap();
    assert_eq!(replayed.last(), Some(&Intent::Key(key.0, key.1)));
}

/// Else a process that ends in the wait has not said what it changed.
#[tokio::test]
async fn a_turn_waits_only_when_the_log_has_all_that_is_said() {
    let disk = disk();
    let (log, _) = IntentLog::open(Arc::clone(&disk), disk.root(), None).unwrap();
    let log = Arc::new(log);
    let committer = Committer::start(Arc::clone(&disk), Arc::clone(&log)).unwrap();
    let (waited, waits) = channel();
    let (waited, looked) = (Mutex::new(waited), Arc::clone(&log));
    committer.wait_at_end(move || {
        let is_unsaid = looked.append_ours().unwrap();
        waited.lock().unwrap().send(is_unsaid).unwrap();
    });
    let ours = Ours {
        ino: 1,
        ctime_ns: 2,
    };
    committer.act_here(&[], false, |_| log.ours(ours)).unwrap();
    assert!(!waits.recv().unwrap());
    let said = Arc::clone(&log);
    let durable_one = committer.submit(durable(), move |_| {
        said.ours(ours);
        Ok(())
    });
    durable_one.await.unwrap();
    assert!(!waits.recv().unwrap());
    let mut replayed = Vec::new();
    log.replay(0, |intent| replayed.push(intent)).unwrap();
    let said = replayed.iter().filter(|it| **it == Intent::Ours(ours));
    assert_eq!(said.count(), 2);
}
