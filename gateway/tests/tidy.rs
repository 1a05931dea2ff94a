//! Style as a test: the Never list of ARCHITECTURE.md, sizes, leftovers, and that every promise
//! of SEMANTICS.md names a test that exists.
//!
//! The source is read as text. Comments are left out; what a rule cannot see (a name made by a
//! macro) the review has to.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Longest source file, in lines; tests are not counted.
const MAX_LINES: usize = 600;
/// Files that may be longer, each with the reason.
const LONGER: &[(&str, &str)] = &[];

/// A source file: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

/// Something that must not stand where it stands.
struct Rule {
    /// What is never done, as ARCHITECTURE.md says it.
    never: &'static str,
    /// Where the rule holds: beginnings of paths.
    within: &'static [&'static str],
    /// Where it does not: beginnings of paths.
    save: &'static [&'static str],
    /// What gives it away; no part of a longer name where it begins with a letter.
    signs: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        never: "does fsstore know a protocol",
        within: &["fsstore/src/"],
        save: &[],
        signs: &[
            "hyper::",
            "hyper_util",
            "http::",
            "http_body",
            "quick_xml",
            "fuser::",
            "tower::",
            "rustls",
        ],
    },
    Rule {
        never: "does a door import another door",
        within: &["gateway/src/s3"],
        save: &[],
        signs: &["crate::swift", "crate::posix", "crate::admin"],
    },
    Rule {
        never: "does a door import another door",
        within: &["gateway/src/swift"],
        save: &[],
        signs: &["crate::s3", "crate::posix", "crate::admin"],
    },
    Rule {
        never: "does a door import another door",
        within: &["gateway/src/posix"],
        save: &[],
        signs: &["crate::s3", "crate::swift", "crate::admin"],
    },
    Rule {
        never: "does a door touch a brick, a path on disk or SQL",
        within: &[
            "gateway/src/s3",
            "gateway/src/swift",
            "gateway/src/posix",
            "gateway/src/auth",
            "gateway/src/body",
            "gateway/src/conditions.rs",
            "gateway/src/errors.rs",
        ],
        // Mountpoints are its business; what is below them is not.
        save: &[
            "gateway/src/posix/mounting.rs",
            "gateway/src/posix/mounting/",
            // A flag of the kernel's device, and what /proc says of processors.
            "gateway/src/posix/fuse/eager.rs",
        ],
        signs: &[
            "fsstore::brick",
            "tokio::fs",
            "std::fs",
            "sqlx",
            "rustix::fs",
        ],
    },
    Rule {
        never: "does anything but the command line choose a kind of volume",
        within: &["gateway/src/"],
        save: &["gateway/src/cli"],
        signs: &["fsstore::brick"],
    },
    Rule {
        never: "is there SQL outside the index",
        within: &["fsstore/src/", "gateway/src/", "placement/src/"],
        // The error that the waist carries names sqlx's type as its source.
        save: &["fsstore/src/brick/index", "fsstore/src/error.rs"],
        signs: &[
            "sqlx",
            "\"SELECT ",
            "\"INSERT ",
            "\"UPDATE ",
            "\"DELETE FROM",
            "\"CREATE TABLE",
        ],
    },
    Rule {
        never: "is a name made by a system call outside the disk",
        within: &["fsstore/src/", "gateway/src/", "placement/src/"],
        save: &[
            "fsstore/src/brick/osdisk",
            "fsstore/src/shared/disk.rs",
            // It asks what a file system does, in a scratch directory of its own.
            "gateway/src/cli/doctor/",
            // The users' file is no object; it is replaced as a whole.
            "gateway/src/users/claim.rs",
        ],
        signs: &["fs::rename", "renameat", "linkat", "hard_link"],
    },
    Rule {
        never: "is anything published outside a commit's turn or a claim",
        within: &["fsstore/src/", "gateway/src/", "placement/src/"],
        save: &[
            "fsstore/src/brick/commit",
            // The disk itself, and its double that crashes.
            "fsstore/src/brick/disk.rs",
            "fsstore/src/brick/osdisk",
            "fsstore/src/brick/crashdisk",
            // What a commit's turn does to names.
            "fsstore/src/brick/publish.rs",
            // A log of changes, and what it has staged, below the reserved directory.
            "fsstore/src/bricks/log.rs",
            "fsstore/src/bricks/member.rs",
            "fsstore/src/bricks/member/staging.rs",
            "fsstore/src/bricks/quarantine.rs",
            "fsstore/src/brick/removal.rs",
            // What a mount does to names, in the turn, and the door that asks for it.
            "fsstore/src/brick/posix",
            "gateway/src/posix",
            // A shared tree's claims, out of which its gateways publish.
            "fsstore/src/shared/disk.rs",
            "fsstore/src/shared/claim",
            "fsstore/src/shared/publish.rs",
            // Parts and side files: nothing that a door shows.
            "fsstore/src/brick/upload.rs",
            "fsstore/src/brick/uploads.rs",
            "fsstore/src/brick/records.rs",
            // A brick's label and its copy of the configuration: the same.
            "fsstore/src/bricks/seat.rs",
            // They ask the volume, which does it in the turn.
            "gateway/src/posix/fs.rs",
            "fsstore/src/brick/crash_tests/",
            "fsstore/src/brick/names/tests.rs",
        ],
        signs: &[".rename(", ".link("],
    },
    Rule {
        never: "is the time of day read outside fsstore::clock",
        within: &["fsstore/src/", "gateway/src/", "placement/src/"],
        save: &["fsstore/src/clock.rs"],
        signs: &[
            "SystemTime::now",
            "now_utc",
            "now_local",
            "Utc::now",
            "Local::now",
        ],
    },
    Rule {
        never: "is fuser named outside posix/fuse",
        within: &["gateway/src/", "fsstore/src/"],
        save: &["gateway/src/posix/fuse.rs", "gateway/src/posix/fuse/"],
        signs: &["fuser::"],
    },
    Rule {
        never: "does placement do more than think",
        within: &["placement/src/"],
        save: &[],
        signs: &[
            "tokio",
            "async fn",
            "std::fs",
            "std::net",
            "std::thread",
            "std::time",
            "rustix",
            "fsstore::",
        ],
    },
    Rule {
        never: "do the black-box tests import portico",
        within: &["compat-tests/"],
        save: &[],
        signs: &["fsstore::", "gateway::"],
    },
    Rule {
        never: "is work left for later in the source",
        within: &["fsstore/", "gateway/", "placement/", "compat-tests/"],
        save: &["gateway/tests/tidy.rs"],
        signs: &["todo!", "unimplemented!", "dbg!", "#[ignore]"],
    },
];

impl Rule {
    fn holds_in(&self, path: &str) -> bool {
        let is_under = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
        is_under(self.within) && !is_under(self.save)
    }

    /// The breaches of this rule in a file, as `path:line: …`.
    fn breaches(&self, source: &Source) -> Vec<String> {
        if !self.holds_in(&source.path) {
            return Vec::new();
        }
        let lines = source.text.lines().enumerate();
        lines
            .filter_map(|(index, line)| {
                let code = code_of(line);
                let sign = self.signs.iter().find(|sign| has_word(code, sign))?;
                let (path, number) = (&source.path, index + 1);
                Some(format!("{path}:{number}: `{sign}`: never {}", self.never))
            })
            .collect()
    }
}

/// A line without its comment. Good enough: `//` in a string hides the rest of that line.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// True where `sign` stands in `code`, not as the end of a longer name.
fn has_word(code: &str, sign: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(sign).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !(sign.starts_with(is_name) && before.is_some_and(is_name))
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file with one of these endings below the root, outside what is built or hidden.
fn sources(endings: &[&str]) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut pending = vec![root.clone()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                let is_ours = !name.starts_with('.') && name != "target" && name != "data";
                pending.extend(is_ours.then(|| entry.path()));
            } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
                let path = entry.path();
                found.push(Source {
                    path: path
                        .strip_prefix(&root)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                    text: std::fs::read_to_string(path).unwrap(),
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn rust_sources() -> Vec<Source> {
    let found = sources(&[".rs"]);
    assert!(found.len() > 20, "the walk lost its way");
    found
}

fn is_test(path: &str) -> bool {
    let within = ["/tests/", "/testing/", "/fuzz/", "/benches/"];
    let ends = ["tests.rs", "test.rs", "testing.rs"];
    within.iter().any(|part| path.contains(part)) || ends.iter().any(|end| path.ends_with(end))
}

#[test]
fn the_never_list_is_kept() {
    let sources = rust_sources();
    let breaches: Vec<String> = RULES
        .iter()
        .flat_map(|rule| sources.iter().flat_map(|source| rule.breaches(source)))
        .collect();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn every_rule_can_be_broken() {
    for rule in RULES {
        for sign in rule.signs {
            let source = Source {
                path: format!("{}x.rs", rule.within[0]),
                text: format!("fn f() {{\n    {sign}x\n}}\n"),
            };
            assert_eq!(rule.breaches(&source).len(), 1, "{}: {sign}", rule.never);
        }
    }
}

#[test]
fn a_rule_reads_code_and_not_comments_or_longer_names() {
    let rule = &RULES[0];
    let source = |text: &str| Source {
        path: "fsstore/src/x.rs".to_owned(),
        text: text.to_owned(),
    };
    let harmless = source("// http::Request\nuse nohttp::X;");
    assert!(rule.breaches(&harmless).is_empty());
    assert!(!rule.breaches(&source("use http::Request;")).is_empty());
}

#[test]
fn fsstore_depends_on_no_protocol() {
    let manifest = std::fs::read_to_string(root().join("fsstore/Cargo.toml")).unwrap();
    for name in ["hyper", "http", "quick-xml", "fuser", "tower", "rustls"] {
        let begins = |line: &str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=', '-']))
        };
        assert!(!manifest.lines().any(begins), "fsstore depends on {name}");
    }
}

#[test]
fn source_files_are_short() {
    let mut long = String::new();
    let sources = rust_sources();
    for source in sources.iter().filter(|source| !is_test(&source.path)) {
        // A module of tests at the end of a file is not counted.
        let lines = source.text.lines();
        let count = lines.take_while(|line| *line != "mod tests {").count();
        let is_known = LONGER.iter().any(|(path, _)| *path == source.path);
        if count > MAX_LINES && !is_known {
            writeln!(long, "{}: {count} lines of {MAX_LINES}", source.path).unwrap();
        }
    }
    assert!(long.is_empty(), "\n{long}");
}

#[test]
fn unsafe_code_has_a_reason() {
    for source in rust_sources() {
        let is_allowed = |line: &str| code_of(line).contains("allow(unsafe_code");
        if source.path != "gateway/tests/tidy.rs" && source.text.lines().any(is_allowed) {
            let has_reason = source.text.contains("SAFETY:");
            assert!(has_reason, "{}: unsafe without SAFETY", source.path);
        }
    }
}

/// A promise of SEMANTICS.md.
#[derive(Debug, PartialEq)]
struct Promise {
    number: String,
    tests: Vec<String>,
}

/// The promises of a text: each begins with `N. ` at the margin, and names its tests in
/// backquotes after `Shown by`.
fn promises(text: &str) -> Vec<Promise> {
    let mut found: Vec<Promise> = Vec::new();
    let mut is_naming = false;
    for line in text.lines() {
        let number = line.split_once(". ").map(|(number, _)| number);
        if let Some(number) = number.filter(|n| n.starts_with(|c: char| c.is_ascii_digit())) {
            found.push(Promise {
                number: number.to_owned(),
                tests: Vec::new(),
            });
            is_naming = false;
        } else if line.starts_with('#') {
            is_naming = false;
        }
        let mut rest = line;
        if let Some((_, after)) = line.split_once("Shown by") {
            is_naming = true;
            rest = after;
        }
        if let (true, Some(promise)) = (is_naming, found.last_mut()) {
            let quoted = rest.split('`').skip(1).step_by(2);
            promise.tests.extend(quoted.map(str::to_owned));
        }
    }
    found
}

/// Names of all functions that are tests: Rust's after `#[test]` and its kin, Python's `test_…`,
/// and the contract suite's, which one test per volume runs.
fn test_names(sources: &[Source]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources {
        let mut is_marked = false;
        for line in source.text.lines().map(str::trim_start) {
            if line.starts_with("#[") {
                is_marked |= line.contains("test");
                continue;
            }
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let line = line.strip_prefix("async ").unwrap_or(line);
            let is_contract = source.path.starts_with("fsstore/src/testing");
            let name = match (line.strip_prefix("fn "), line.strip_prefix("def test_")) {
                (Some(name), _) if is_marked || is_contract => Some(name.to_owned()),
                (_, Some(name)) => Some(format!("test_{name}")),
                _ => None,
            };
            is_marked &= line.is_empty();
            if let Some(name) = name {
                let end = name.find(['(', '<', ':']).unwrap_or(name.len());
                names.insert(name[..end].to_owned());
            }
        }
    }
    names
}

#[test]
fn every_promise_names_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("SEMANTICS.md")).unwrap();
    let known = test_names(&sources(&[".rs", ".py"]));
    let promises = promises(&text);
    assert!(promises.len() > 10);
    let mut wrong = String::new();
    for promise in promises {
        if promise.tests.is_empty() {
            writeln!(wrong, "{}. names no test", promise.number).unwrap();
        }
        for test in promise.tests.iter().filter(|test| !known.contains(*test)) {
            writeln!(wrong, "{}. names `{test}`, no test", promise.number).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn promises_are_read_with_their_tests() {
    let text = "# Head\n1. One thing\n   goes on. Shown by `a`,\n   `b`.\n\n## Next\n`x`\n2a. No\n";
    let promise = |number: &str, tests: &[&str]| Promise {
        number: number.to_owned(),
        tests: tests.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(
        promises(text),
        [promise("1", &["a", "b"]), promise("2a", &[])]
    );
}

#[test]
fn a_function_that_is_no_test_shows_nothing() {
    let source = Source {
        path: "gateway/src/x.rs".to_owned(),
        text: "fn plain() {}\n#[test]\nfn shown() {}\n#[tokio::test]\nasync fn too() {}\n"
            .to_owned(),
    };
    let names: Vec<String> = test_names(&[source]).into_iter().collect();
    assert_eq!(names, ["shown", "too"]);
}
