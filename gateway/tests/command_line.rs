//! The program as a process: what it says, and where its settings come from.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// Runs `portico` with these words and variables, in an environment of its own.
fn portico(words: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portico"))
        .args(words)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_flag_goes_before_a_variable_and_a_variable_before_the_file() {
    // Addresses that are taken: `serve` ends, and names the one that it tried.
    let taken: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let at = |n: usize| taken[n].local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = dir.path().join("p.toml");
    std::fs::write(&file, format!("listen = \"{}\"\n", at(0))).unwrap();
    let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());

    let from_file = portico(&["serve", data, "--config", file], &[]);
    assert!(stderr(&from_file).contains(&at(0)), "{from_file:?}");

    let from_env = at(1);
    let variables = [
        ("PORTICO_DIR", data),
        ("PORTICO_CONFIG", file),
        ("PORTICO_LISTEN", from_env.as_str()),
    ];
    let from_variable = portico(&["serve"], &variables);
    assert!(stderr(&from_variable).contains(&at(1)), "{from_variable:?}");

    let from_flag = portico(&["serve", "--listen", &at(2)], &variables);
    assert!(stderr(&from_flag).contains(&at(2)), "{from_flag:?}");
    assert_eq!(from_flag.status.code(), Some(1));
}

#[test]
fn an_unknown_key_ends_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.toml");
    std::fs::write(&file, "dir = \"x\"\nlissten = \"a\"\n").unwrap();
    let output = portico(&["serve", "--config", file.to_str().unwrap()], &[]);
    let said = stderr(&output);
    assert!(said.contains("p.toml:2: unknown key `lissten`"), "{said}");
    assert!(said.contains("`listen`"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn help_reads_as_groups_with_examples() {
    let help = stdout(&portico(&["--help"], &[]));
    assert!(help.contains("Examples:") && help.contains("portico serve ./data"));
    let serve = stdout(&portico(&["serve", "--help"], &[]));
    for group in ["Data:", "Keys:", "TLS:", "Logs:", "Limits:"] {
        assert!(serve.contains(group), "{group}\n{serve}");
    }
    assert_eq!(portico(&["sreve"], &[]).status.code(), Some(2));
}

#[test]
fn users_and_keys_are_made_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let json = |words: &[&str]| -> serde_json::Value {
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain(["--dir", at, "--json"])
            .collect();
        let output = portico(&words, &[]);
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let alice = json(&["user", "add", "alice", "--uid", "7", "--groups", "a,b"]);
    let key = json(&["key", "add", "alice", "--ttl", "1h"]);
    assert!(key["session_token"].as_str().unwrap().len() > 20);
    assert!(key["expires"].as_str().unwrap().ends_with('Z'));
    let users = json(&["user", "ls"]);
    let listed = users
        .as_array()
        .unwrap()
        .iter()
        .find(|u| u["name"] == "alice");
    let listed = listed.unwrap();
    assert_eq!(listed["keys"][0], alice["access_key"]);
    assert_eq!(listed["keys"][1], key["access_key"]);
    assert_eq!(
        (&listed["uid"], &listed["groups"][1]),
        (&7.into(), &"b".into())
    );
    assert!(
        !users
            .to_string()
            .contains(alice["secret_key"].as_str().unwrap())
    );

    json(&["key", "rm", key["access_key"].as_str().unwrap()]);
    json(&["user", "rm", "alice"]);
    assert!(!json(&["user", "ls"]).to_string().contains("alice"));
    let again = portico(&["user", "rm", "alice", "--dir", at], &[]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        stderr(&again).contains("there is no user alice"),
        "{again:?}"
    );
}

#[test]
fn a_command_without_a_tree_says_how_to_name_one() {
    let output = portico(&["user", "ls"], &[]);
    assert!(stderr(&output).contains("PORTICO_DIR"), "{output:?}");
}

/// A server of its own on a free port.
struct Server {
    process: Child,
    endpoint: String,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_portico"))
            .args(["serve", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"])
            .args(["--scan-interval", "50ms"])
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let endpoint = lines
            .find_map(|line| Some(line.unwrap().split_once("endpoint")?.1.trim().to_owned()))
            .unwrap();
        Self { process, endpoint }
    }

    /// SIGTERM; the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves no server behind; one that ended is no error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What `portico … --json` answers, and whether it succeeded.
fn json(words: &[&str], dir: Option<&Path>) -> (serde_json::Value, bool) {
    let mut words = words.to_vec();
    words.push("--json");
    if let Some(dir) = dir {
        words.extend(["--dir", dir.to_str().unwrap()]);
    }
    let output = portico(&words, &[]);
    let answer = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (answer, output.status.success())
}

#[test]
fn a_served_tree_is_looked_at_checked_and_its_index_built_anew() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let photos = dir.join("main/photos");
    std::fs::create_dir_all(photos.join("2024")).unwrap();
    std::fs::write(photos.join("2024/cat.jpg"), b"cat").unwrap();

    let server = Server::start(dir);
    assert!(server.endpoint.starts_with("http://127.0.0.1:"));
    let (buckets, _) = json(&["bucket", "ls"], Some(dir));
    assert_eq!(buckets[0]["name"], "photos");
    assert_eq!(
        (&buckets[0]["durability"], &buckets[0]["hash"]),
        (&"strict".into(), &"background".into())
    );
    let refused = portico(&["index", "check", "--dir", dir.to_str().unwrap()], &[]);
    let pid = format!("pid {}", server.process.id());
    assert!(stderr(&refused).contains(&pid), "{refused:?}");
    assert_eq!(server.stop(), Some(0));

    let (stat, _) = json(&["bucket", "stat", "photos"], Some(dir));
    assert_eq!(
        (&stat["objects"], &stat["len_bytes"]),
        (&1.into(), &3.into())
    );
    let cat = photos.join("2024/cat.jpg");
    let (meta, _) = json(&["meta", cat.to_str().unwrap()], None);
    assert_eq!(
        (&meta["bucket"], &meta["key"]),
        (&"photos".into(), &"2024/cat.jpg".into())
    );
    assert_eq!(meta["len_bytes"], 3);

    let (rebuilt, done) = json(&["index", "rebuild"], Some(dir));
    assert!(done && rebuilt["objects"] == 1, "{rebuilt}");
    let (check, is_true) = json(&["index", "check"], Some(dir));
    assert!(is_true && check[0]["objects"] == 1, "{check}");
    std::fs::write(photos.join("new"), b"1").unwrap();
    let (check, is_true) = json(&["index", "check"], Some(dir));
    assert!(!is_true && check[0]["missing"] == 1, "{check}");
    assert_eq!(check[0]["examples"][0], "new");
}

#[test]
fn a_file_outside_a_volume_and_a_tree_never_served_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path().to_str().unwrap();
    let file = temp.path().join("f");
    std::fs::write(&file, b"").unwrap();
    let meta = portico(&["meta", file.to_str().unwrap()], &[]);
    assert!(stderr(&meta).contains("no object of a volume"), "{meta:?}");
    let buckets = portico(&["bucket", "ls", "--dir", at], &[]);
    assert!(stderr(&buckets).contains("was never served"), "{buckets:?}");
    assert_eq!(buckets.status.code(), Some(1));
}
