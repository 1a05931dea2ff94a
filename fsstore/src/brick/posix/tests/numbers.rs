//! Files by their numbers alone.

use super::{Scene, me, path};
use crate::files::{Errno, Files, NewNode, RenameMode};

fn number(scene: &Scene, text: &str) -> u64 {
    scene.brick.lookup(&path(text)).unwrap().ino
}

#[test]
fn a_number_leads_to_where_its_file_stands_now() {
    let scene = Scene::new();
    scene.put("d/f", b"bytes");
    let [file, dir, bucket] = ["b/d/f", "b/d", "b"].map(|text| number(&scene, text));
    assert_eq!(scene.brick.find(file), Ok(path("b/d/f")));
    let mode = RenameMode::default();
    scene
        .brick
        .rename(&path("b/d"), &path("b/e"), mode)
        .unwrap();
    assert_eq!(scene.brick.find(file), Ok(path("b/e/f")));
    if rustix::process::geteuid().is_root() {
        assert_eq!(scene.brick.find(dir), Ok(path("b/e")));
        assert_eq!(scene.brick.find(bucket), Ok(path("b")));
    }
    scene.brick.unlink(&path("b/e/f")).unwrap();
    assert_eq!(scene.brick.find(file), Err(Errno::STALE));
    assert_eq!(scene.brick.find(1 << 63), Err(Errno::STALE));
}

#[test]
fn the_index_knows_a_files_names_after_a_restart_and_a_move() {
    let scene = Scene::new();
    scene.put("d/f", b"bytes");
    let file = number(&scene, "b/d/f");
    scene.brick.make_dir(&path("b/x"), 0o755, me()).unwrap();
    let found = |scene: &Scene| scene.brick.inner.find_in_index(file).unwrap();
    assert_eq!(found(&scene), Some(path("b/d/f")));
    let scene = scene.reopened();
    assert_eq!(found(&scene), Some(path("b/d/f")));
    let mode = RenameMode::default();
    scene
        .brick
        .rename(&path("b/d"), &path("b/x/e"), mode)
        .unwrap();
    assert_eq!(found(&scene), Some(path("b/x/e/f")));
    scene.put("x/e/f", b"another");
    assert_eq!(found(&scene), None);
}

#[test]
fn what_stands_aside_or_has_no_key_has_no_path_in_the_index() {
    let scene = Scene::new();
    scene.put("f", b"bytes");
    let aside = number(&scene, "b/f");
    scene.put("f/k", b"bytes");
    let node = NewNode {
        mode: 0o010_644,
        rdev: 0,
    };
    scene.brick.make_node(&path("b/fifo"), node, me()).unwrap();
    for number in [aside, number(&scene, "b/fifo")] {
        assert_eq!(scene.brick.inner.find_in_index(number).unwrap(), None);
    }
    assert_eq!(scene.brick.find(aside), Err(Errno::STALE));
}
