use super::*;

fn nodes() -> Nodes<u8> {
    Nodes::new(FilePath::root())
}

fn attr(ino: u64, generation: u64, mode: u32) -> FileAttr {
    FileAttr {
        ino,
        generation,
        len_bytes: 0,
        block_count: 0,
        block_len_bytes: 4096,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        mode,
        link_count: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
    }
}

const DIR: u32 = 0o040_755;
const FILE: u32 = 0o100_644;

fn see(nodes: &Nodes<u8>, parent: u64, name: &str, ino: u64, mode: u32) {
    look_up(nodes, parent, name, attr(ino, 1, mode));
}

/// The number that the kernel is given.
fn look_up(nodes: &Nodes<u8>, parent: u64, name: &str, mut attr: FileAttr) -> u64 {
    nodes.looked_up(parent, OsStr::new(name), &mut attr);
    attr.ino
}

fn path(nodes: &Nodes<u8>, ino: u64) -> Result<String, Errno> {
    let path = nodes.path(ino)?;
    Ok(path.as_os_str().to_str().unwrap().to_owned())
}

#[test]
fn a_path_is_made_by_climbing() {
    let nodes = nodes();
    see(&nodes, ROOT, "b", 10, DIR);
    see(&nodes, 10, "d", 11, DIR);
    see(&nodes, 11, "f", 12, FILE);
    assert_eq!(path(&nodes, 12), Ok("b/d/f".into()));
    assert_eq!(path(&nodes, ROOT), Ok(String::new()));
    assert_eq!(path(&nodes, 99), Err(Errno::STALE));
    assert_eq!(nodes.parent(12), Some(11));
    assert_eq!(nodes.parent(ROOT), Some(ROOT));
}

#[test]
fn a_mount_of_a_bucket_has_its_paths_below_it() {
    let base = FilePath::root().join(OsStr::new("b")).unwrap();
    let nodes = Nodes::new(base.clone());
    see(&nodes, ROOT, "f", 12, FILE);
    assert_eq!(path(&nodes, 12), Ok("b/f".into()));
    let found = nodes.find(&base.join(OsStr::new("f")).unwrap()).unwrap();
    assert_eq!((found.parent, found.ino), (Some(ROOT), Some(12)));
    let elsewhere = FilePath::root().join(OsStr::new("c")).unwrap();
    assert_eq!(nodes.find(&elsewhere), None);
    assert_eq!(nodes.find(&FilePath::root()), None);
    assert_eq!(nodes.find(&base).unwrap().ino, Some(ROOT));
}

#[test]
fn a_renamed_directory_takes_all_below_it_along() {
    let nodes = nodes();
    see(&nodes, ROOT, "b", 10, DIR);
    see(&nodes, 10, "d", 11, DIR);
    see(&nodes, 11, "f", 12, FILE);
    nodes.renamed(10, OsStr::new("d"), ROOT, OsStr::new("e"));
    assert_eq!(path(&nodes, 12), Ok("e/f".into()));
    assert!(
        nodes
            .find(&FilePath::root().join(OsStr::new("b")).unwrap())
            .is_some()
    );
}

#[test]
fn what_is_renamed_over_loses_its_name_and_stays_by_its_handle() {
    let nodes = nodes();
    see(&nodes, ROOT, "a", 10, FILE);
    see(&nodes, ROOT, "b", 11, FILE);
    assert!(!nodes.opened(11, 7, 70, false));
    nodes.renamed(ROOT, OsStr::new("a"), ROOT, OsStr::new("b"));
    assert_eq!(path(&nodes, 10), Ok("b".into()));
    assert_eq!(path(&nodes, 11), Err(Errno::STALE));
    assert_eq!(nodes.handle(11, |_| true), Some(70));
    nodes.forget(11, 1);
    assert_eq!(nodes.known(11), [11], "held open");
    nodes.unheld(11, 7);
    nodes.closed(11, false);
    assert!(nodes.known(11).is_empty());
}

#[test]
fn names_that_change_places_lead_to_each_other() {
    let nodes = nodes();
    see(&nodes, ROOT, "a", 10, FILE);
    see(&nodes, ROOT, "d", 11, DIR);
    see(&nodes, 11, "x", 12, FILE);
    nodes.exchanged(ROOT, OsStr::new("a"), ROOT, OsStr::new("d"));
    assert_eq!(path(&nodes, 10), Ok("d".into()));
    assert_eq!(path(&nodes, 12), Ok("a/x".into()));
}

#[test]
fn links_of_a_file_are_one_node_with_two_names() {
    let nodes = nodes();
    see(&nodes, ROOT, "a", 10, FILE);
    see(&nodes, ROOT, "b", 10, FILE);
    assert_eq!(nodes.path_by(10, 1).unwrap().as_os_str(), "b");
    nodes.unlinked(ROOT, OsStr::new("a"));
    assert_eq!(path(&nodes, 10), Ok("b".into()));
    nodes.forget(10, 1);
    assert_eq!(nodes.known(10), [10]);
    nodes.forget(10, 1);
    assert!(nodes.known(10).is_empty());
    assert_eq!(nodes.all_names(), []);
}

#[test]
fn a_number_used_again_has_a_stand_in_while_the_kernel_holds_the_first_file() {
    let nodes = nodes();
    let see = |name, generation| look_up(&nodes, ROOT, name, attr(10, generation, FILE));
    assert_eq!((see("a", 1), see("a", 1)), (10, 10));
    let second = see("b", 2);
    assert_ne!(second, 10);
    assert_eq!(see("b", 2), second);
    assert_eq!((nodes.real(second), nodes.real(10)), (10, 10));
    assert_eq!(nodes.known(10), [10, second]);
    assert_eq!(path(&nodes, 10), Ok("a".into()));
    assert_eq!(path(&nodes, second), Ok("b".into()));
    assert!(nodes.forget(10, 2));
    assert_eq!(path(&nodes, second), Ok("b".into()));
    assert_eq!(see("b", 2), second, "the kernel knows it so");
    // A third file of the number, now that the first is forgotten.
    assert_eq!(see("c", 3), 10);
    assert!(nodes.forget(second, 3));
    assert_eq!(nodes.known(10), [10]);
}

#[test]
fn a_file_whose_number_is_the_roots_has_a_stand_in() {
    let nodes = nodes();
    let number = look_up(&nodes, ROOT, "f", attr(ROOT, 1, FILE));
    assert_ne!(number, ROOT);
    assert_eq!(path(&nodes, number), Ok("f".into()));
    assert_eq!(path(&nodes, ROOT), Ok(String::new()));
}

#[test]
fn a_name_that_leads_to_another_file_is_taken_from_the_first() {
    let nodes = nodes();
    see(&nodes, ROOT, "a", 10, FILE);
    see(&nodes, ROOT, "a", 11, FILE);
    assert_eq!(path(&nodes, 10), Err(Errno::STALE));
    assert_eq!(path(&nodes, 11), Ok("a".into()));
    assert!(nodes.forget(10, 1));
    assert_eq!(path(&nodes, 11), Ok("a".into()));
}

#[test]
fn attributes_are_remembered_unless_someone_may_write() {
    let nodes = nodes();
    let mut file = attr(10, 1, FILE);
    assert!(nodes.looked_up(ROOT, OsStr::new("a"), &mut file));
    assert!(nodes.opened(10, 1, 1, true), "the first writer");
    assert!(!nodes.opened(10, 2, 2, true));
    assert!(!nodes.described(10, &file));
    assert!(!nodes.looked_up(ROOT, OsStr::new("a"), &mut file));
    nodes.unheld(10, 1);
    nodes.closed(10, true);
    assert!(!nodes.described(10, &file));
    nodes.unheld(10, 2);
    nodes.closed(10, true);
    assert!(nodes.described(10, &file));
}

#[test]
fn a_removed_directory_has_an_answer_without_names() {
    let nodes = nodes();
    see(&nodes, ROOT, "d", 10, DIR);
    assert_eq!(nodes.last_words(10), None, "it stands");
    nodes.unlinked(ROOT, OsStr::new("d"));
    let last = nodes.last_words(10).unwrap();
    assert_eq!((last.ino, last.link_count), (10, 0));
    see(&nodes, ROOT, "f", 11, FILE);
    nodes.unlinked(ROOT, OsStr::new("f"));
    assert_eq!(nodes.last_words(11), None);
}

#[test]
fn a_handle_that_suits_is_preferred() {
    let nodes = nodes();
    see(&nodes, ROOT, "a", 10, FILE);
    nodes.opened(10, 1, 1, false);
    nodes.opened(10, 2, 2, true);
    assert_eq!(nodes.handle(10, |h| *h == 2), Some(2));
    assert_eq!(nodes.handle(10, |h| *h == 3), Some(1));
    assert_eq!(nodes.handle(11, |_| true), None);
}

#[test]
fn a_name_below_a_known_directory_is_found_though_it_is_not_known() {
    let nodes = nodes();
    see(&nodes, ROOT, "d", 10, DIR);
    let below = |names: &[&str]| {
        names.iter().fold(FilePath::root(), |path, name| {
            path.join(OsStr::new(name)).unwrap()
        })
    };
    let found = nodes.find(&below(&["d", "new"])).unwrap();
    assert_eq!((found.parent, found.ino), (Some(10), None));
    assert_eq!(found.name.as_deref(), Some(OsStr::new("new")));
    assert_eq!(nodes.find(&below(&["other", "new"])), None);
}
