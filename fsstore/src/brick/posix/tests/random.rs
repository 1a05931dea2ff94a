//! Random changes by both halves of the waist: after each, the listing is what the tree says.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use md5::{Digest, Md5};

use crate::brick::HashPolicy;
use crate::files::{Errno, FileId, FileResult, Files, OpenFile, RenameMode, SetAttr, Target};
use crate::keypath;
use crate::name::ETag;
use crate::volume::{Durability, ListQuery, Volume};

use super::{BOTH, Scene, at, me, path};

const SEEDS: u64 = 6;
const STEPS: usize = 120;
const NAMES: [&str; 5] = ["a", "b", "c", "é", "x y"];

/// A sequence of numbers that a seed makes. Source: Marsaglia, "Xorshift RNGs".
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    /// One to three names.
    fn key(&mut self) -> String {
        let depth = 1 + self.below(3);
        let names: Vec<&str> = (0..depth).map(|_| NAMES[self.below(NAMES.len())]).collect();
        names.join("/")
    }
}

/// The regular files below a directory, by path, with their lengths.
fn files_below(dir: &Path, prefix: &str, found: &mut BTreeMap<String, u64>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            files_below(&entry.path(), &format!("{path}/"), found);
        } else {
            found.insert(path, meta.len());
        }
    }
}

impl Scene {
    /// What the tree says: plain files, and those that stand aside for a directory.
    fn objects_of_tree(&self) -> BTreeMap<String, u64> {
        let (mut objects, mut aside) = (BTreeMap::new(), BTreeMap::new());
        files_below(&self.real("b"), "", &mut objects);
        files_below(&self.real(".portico/keys/b"), "", &mut aside);
        for (path, len) in aside {
            let key = keypath::decode_escaped(&path).unwrap();
            let stood = objects.insert(key.as_str().to_owned(), len);
            assert_eq!(stood, None, "{key} stands twice");
        }
        objects
    }

    /// What a listing says, with tags as a look at each object has them.
    fn objects_listed(&self) -> BTreeMap<String, u64> {
        let query = ListQuery {
            limit: 1_000,
            ..ListQuery::default()
        };
        let bucket = at("-").bucket;
        let listing = self.brick.list(&bucket, &query);
        let page = self.runtime.block_on(listing).unwrap();
        let entries = page.objects.into_iter();
        entries
            .map(|entry| {
                let key = entry.key.as_str().to_owned();
                let stat = self.stat(&key);
                assert_eq!(stat.etag, entry.etag, "{key}");
                assert_eq!(stat.len_bytes, entry.len_bytes, "{key}");
                (key, entry.len_bytes)
            })
            .collect()
    }

    fn md5_of(&self, key: &str) -> ETag {
        ETag::from_md5(&Md5::digest(self.get(key)).into())
    }

    /// One change; what cannot be done is said as POSIX says it. Where two trees changed places
    /// the bucket is listed from the tree from then on: so only some runs have that.
    fn change(&self, numbers: &mut Numbers, exchanges: bool) -> (String, FileResult<()>) {
        let (key, other) = (numbers.key(), numbers.key());
        let (whole, to) = (path(&format!("b/{key}")), path(&format!("b/{other}")));
        let bytes = vec![b'x'; numbers.below(9)];
        let named = |act: &dyn Fn(Target<'_, _>) -> FileResult<()>| {
            let ino = self.brick.lookup(&whole)?.ino;
            act(Target::Named {
                path: &whole,
                id: FileId::any(ino),
            })
        };
        let (what, done) = match numbers.below(13) {
            0..3 => {
                self.put(&key, &bytes);
                ("put", Ok(()))
            }
            3 => {
                self.delete(&key);
                ("delete", Ok(()))
            }
            4 => {
                let made = self.brick.create(&whole, 0o644, BOTH, me());
                (
                    "write",
                    made.and_then(|(_, file)| file.write(0, &bytes).map(drop)),
                )
            }
            5 | 6 => ("mkdir", self.brick.make_dir(&whole, 0o755, me()).map(drop)),
            7 => ("unlink", self.brick.unlink(&whole)),
            8 => ("rmdir", self.brick.remove_dir(&whole)),
            9 if exchanges => {
                let moved = self.brick.rename(&whole, &to, RenameMode::Exchange);
                ("exchange", moved)
            }
            9 | 10 => {
                let moved = self.brick.rename(&whole, &to, RenameMode::Replace);
                ("rename", moved)
            }
            11 => {
                let link = |target: Target<'_, _>| self.brick.make_link(target, &to).map(drop);
                ("link", named(&link))
            }
            _ => {
                let set = SetAttr {
                    mode: Some(0o700),
                    ..SetAttr::default()
                };
                let chmod = |target: Target<'_, _>| self.brick.set_attr(target, set).map(drop);
                ("chmod", named(&chmod))
            }
        };
        (format!("{what} {key} {other}"), done)
    }
}

#[test]
fn tags_are_true_after_files_were_held_open_over_random_changes() {
    const HELD: usize = 6;
    for seed in 1..=SEEDS / 2 {
        let scene = Scene::with(|options| {
            options.hash = HashPolicy::OnClose.into();
            options.durability.default = Durability::Relaxed;
        });
        let (mut numbers, mut held) = (Numbers(seed), Vec::new());
        let mut done = Vec::new();
        for _ in 0..STEPS {
            done.push(scene.change(&mut numbers, false).0);
            if let Ok(file) = scene.open(&format!("b/{}", numbers.key()), BOTH) {
                held.push(file);
            }
            if !held.is_empty() {
                let file = &held[numbers.below(held.len())];
                file.write(numbers.below(9) as u64, b"mount").unwrap();
            }
            if held.len() > HELD {
                held.swap_remove(numbers.below(HELD));
            }
            for (key, len_bytes) in scene.objects_of_tree() {
                let stat = scene.stat(&key);
                assert_eq!(stat.len_bytes, len_bytes, "seed {seed}: {done:#?}");
                if !stat.etag.is_provisional() {
                    let is = scene.md5_of(&key);
                    assert_eq!(stat.etag, is, "seed {seed}, {key}: {done:#?}");
                }
            }
        }
        held.clear();
        for key in scene.keys() {
            let is = scene.md5_of(&key);
            scene.eventually_tagged(&key, is.as_str());
        }
    }
}

#[test]
fn random_changes_of_both_halves_leave_a_true_listing() {
    const MAY_SAY: [Errno; 8] = [
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::EXIST,
        Errno::NOTEMPTY,
        Errno::INVAL,
        Errno::PERM,
        Errno::MLINK,
    ];
    for seed in 1..=SEEDS {
        let mut scene = Scene::with(|options| {
            options.hash = HashPolicy::Never.into();
            options.durability.default = Durability::Relaxed;
            // What a change leaves wrong is not put right behind our back.
            options.scan_interval = Duration::from_secs(3_600);
        });
        let (mut numbers, mut done) = (Numbers(seed), Vec::new());
        for step in 0..STEPS {
            let (what, said) = scene.change(&mut numbers, seed % 3 == 0);
            done.push(format!("{what}: {said:?}"));
            if let Err(said) = said {
                assert!(MAY_SAY.contains(&said), "seed {seed}: {done:#?}");
            }
            let (listed, stand) = (scene.objects_listed(), scene.objects_of_tree());
            assert_eq!(listed, stand, "seed {seed}: {done:#?}");
            if step == STEPS / 2 {
                scene = scene.reopened();
            }
        }
    }
}
