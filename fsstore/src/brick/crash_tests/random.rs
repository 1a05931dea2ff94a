//! Random operations on few keys that stand in each other's way, cut at a random call. The seed
//! is in what a failure prints; PORTICO_CRASH_SEED begins with it, PORTICO_CRASH_EFFORT tries
//! more.

use super::super::crashdisk::{Abilities, Model, Random};
use super::ops::{Body, Op, Place};
use super::scene::{Cut, End, IndexKept, Scene, effort};
use crate::volume::Durability;
use Op::{Abort, All, Begin, Copy, PartUnannounced, Put, Remove, Set, Tag, Touch};

/// Sequences that CI tries, each cut at several calls.
const SEQUENCES: u64 = 12;
const CUTS_PER_SEQUENCE: usize = 6;
/// Operations in a sequence.
const MAX_OPS: usize = 7;

const KEYS: [Place; 10] = [
    "b:a",
    "b:a/b",
    "b:a/b/c",
    "b:a/",
    "b:a/b/",
    "b:d",
    "b:d//e",
    "b:d/./f",
    "b:g/h/i/j",
    "b:a-b",
];

fn body(random: &mut Random) -> Body {
    let lens = [0, 1, 100, 4_096, 9_000, 150_000];
    Body(lens[random.below(lens.len())], random.next())
}

/// What is known of a sequence while it is made: only operations that succeed are added.
struct Maker {
    random: Random,
    standing: Vec<Place>,
    uploading: Option<Place>,
}

impl Maker {
    fn key(&mut self) -> Place {
        KEYS[self.random.below(KEYS.len())]
    }

    fn put(&mut self, key: Place) -> Op {
        if !self.standing.contains(&key) {
            self.standing.push(key);
        }
        let attrs = [0, 100, 900][self.random.below(3)];
        Put(key, body(&mut self.random), attrs)
    }

    fn remove(&mut self, key: Place) -> Op {
        self.standing.retain(|standing| *standing != key);
        Remove(key)
    }

    fn op(&mut self) -> Op {
        let key = self.key();
        let there = match self.standing.len() {
            0 => None,
            len => Some(self.standing[self.random.below(len)]),
        };
        match (self.random.below(16), there) {
            (0..4, _) => self.put(key),
            (4..7, Some(there)) => self.remove(there),
            (7, _) => self.remove(key),
            (8, Some(there)) => Tag(there, self.random.below(20)),
            (9, Some(there)) => Touch(there, self.random.below(20)),
            (10, Some(there)) if !there.ends_with('/') => {
                if !self.standing.contains(&key) {
                    self.standing.push(key);
                }
                Copy(there, key)
            }
            (11, _) => Set("b", "a document"),
            (12..14, _) => self.upload_step(),
            (14, _) => self.many(),
            _ => self.put(key),
        }
    }

    fn upload_step(&mut self) -> Op {
        match self.uploading {
            None => {
                let key = ["b:d", "b:a", "b:g/h/i/j"][self.random.below(3)];
                self.uploading = Some(key);
                Begin(key)
            }
            Some(key) if self.random.below(4) == 0 => {
                self.uploading = None;
                Abort(key)
            }
            Some(key) => {
                let number = 1 + self.random.below(2) as u32;
                PartUnannounced(key, number, body(&mut self.random))
            }
        }
    }

    /// Different keys at once.
    fn many(&mut self) -> Op {
        let mut ops = Vec::new();
        for key in KEYS {
            match self.random.below(3) {
                0 => ops.push(self.put(key)),
                1 => ops.push(self.remove(key)),
                _ => {}
            }
        }
        All(ops)
    }
}

fn sequence(seed: u64) -> Scene {
    let mut maker = Maker {
        random: Random(seed),
        standing: Vec::new(),
        uploading: None,
    };
    let setup_len = maker.random.below(4);
    let setup: Vec<Op> = (0..setup_len).map(|_| maker.op()).collect();
    let len = 1 + maker.random.below(MAX_OPS);
    let ops: Vec<Op> = (0..len).map(|_| maker.op()).collect();
    let abilities = Abilities {
        syncs_everything: maker.random.below(2) == 0,
        has_xattrs: maker.random.below(4) != 0,
        max_record_len_bytes: [300, 64 << 10][maker.random.below(2)],
    };
    Scene::new(setup, ops).with(abilities)
}

async fn play(seed: u64) {
    let mut scene = sequence(seed);
    let mut random = Random(!seed);
    let relaxed = random.below(6) == 0;
    if relaxed {
        scene.durability = Durability::Relaxed;
    }
    let prepared = scene.prepare().await;
    for _ in 0..CUTS_PER_SEQUENCE {
        let end = match random.below(5) {
            _ if relaxed => End::Kill,
            0 => End::Kill,
            1 | 2 => End::PowerCut(Model::Journal),
            _ => End::PowerCut(Model::Adversary),
        };
        let kept = [IndexKept::Behind, IndexKept::Ahead, IndexKept::Fresh];
        let cut = Cut {
            after: random.next() % (prepared.changes + 1),
            end,
            seed: random.next(),
            index: kept[random.below(3)],
            again: random.below(4) == 0,
        };
        prepared.play(cut).await;
    }
}

/// Says which sequence it was, should a check fail.
struct Where(u64);

impl Drop for Where {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PORTICO_CRASH_SEED={}", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_cut_at_random() {
    let begin = std::env::var("PORTICO_CRASH_SEED").ok();
    let begin: u64 = begin.and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in begin..begin + SEQUENCES * effort() {
        let _where = Where(seed);
        play(seed).await;
    }
}
