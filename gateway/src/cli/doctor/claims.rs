//! Races through both mounts at once: of two that want the same, one wins.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Barrier;

use super::names::move_file;
use super::probe::{Probe, Row, Rule};

/// Adds the rows.
pub(super) fn examine(probe: &Probe, rows: &mut Vec<Row>) {
    let one = Rule::needs(
        "O_EXCL has one winner",
        "two gateways would both make the same thing",
    );
    rows.push(one.counted("had none or two", race(probe, exclusive)));
    let one = Rule::needs(
        "link has one winner",
        "If-None-Match: * would let two PUTs through",
    );
    rows.push(one.counted("had none or two", race(probe, link)));
    let one = Rule::needs(
        "mkdir has one winner",
        "two gateways would both make a bucket",
    );
    rows.push(one.counted("had none or two", race(probe, make_dir)));
    let one = Rule::needs(
        "a claim has one winner",
        "conditional requests would not be exact between gateways",
    );
    rows.push(one.counted("had none or two", race(probe, claim)));
    let one = Rule::needs(
        "a fenced claim publishes nothing",
        "a gateway that slept could undo what came after it",
    );
    rows.push(one.counted("did both or neither", fencing(probe)));
}

/// Lets both mounts do the same at the same time, and counts the rounds without just one success.
pub(super) fn race(
    probe: &Probe,
    attempt: fn(&Path, u32, &str) -> io::Result<bool>,
) -> io::Result<(u32, u32)> {
    probe.count(probe.rounds, |round| {
        let start = Barrier::new(2);
        let run = |dir: &Path, who: &str| {
            start.wait();
            attempt(dir, round, who)
        };
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| run(&probe.a, "a"));
            let second = run(&probe.b, "b");
            (first.join(), second)
        });
        let first = first.unwrap_or_else(|_| Err(io::Error::other("a racer ended")))?;
        Ok(u32::from(first) + u32::from(second?) != 1)
    })
}

/// Success, or somebody was faster.
pub(super) fn won(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn exclusive(dir: &Path, round: u32, _: &str) -> io::Result<bool> {
    let path = dir.join(format!("exclusive-{round}"));
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    won(made.map(|_| ()))
}

fn link(dir: &Path, round: u32, who: &str) -> io::Result<bool> {
    let staged = dir.join(format!("linked-{round}-{who}"));
    File::create(&staged)?;
    won(std::fs::hard_link(
        &staged,
        dir.join(format!("linked-{round}")),
    ))
}

fn make_dir(dir: &Path, round: u32, _: &str) -> io::Result<bool> {
    won(std::fs::create_dir(dir.join(format!("made-{round}"))))
}

/// A directory with a file in it, moved to a name that only one can have.
fn claim(dir: &Path, round: u32, who: &str) -> io::Result<bool> {
    let staged = dir.join(format!("claim-{round}-{who}"));
    std::fs::create_dir(&staged)?;
    File::create(staged.join(format!("{who}-{round}")))?;
    won(move_file(&staged, &dir.join(format!("claim-{round}"))))
}

/// The holder of a claim moves its file out while another takes it away: one of both succeeds.
fn fencing(probe: &Probe) -> io::Result<(u32, u32)> {
    probe.count(probe.rounds, |round| {
        let name = format!("fenced-{round}");
        std::fs::create_dir(probe.a.join(&name))?;
        File::create(probe.a.join(&name).join("own"))?;
        // The other mount knows it.
        let _ = probe.b.join(&name).join("own").metadata()?;
        let start = Barrier::new(2);
        let (published, broken) = std::thread::scope(|scope| {
            let breaking = scope.spawn(|| {
                start.wait();
                std::fs::remove_file(probe.b.join(&name).join("own"))
            });
            start.wait();
            let published = move_file(
                &probe.a.join(&name).join("own"),
                &probe.a.join(format!("{name}-published")),
            );
            (published, breaking.join())
        });
        let broken = broken.unwrap_or_else(|_| Err(io::Error::other("a racer ended")));
        let is_there = probe.b.join(format!("{name}-published")).exists();
        let is_one = published.is_ok() != broken.is_ok();
        Ok(!is_one || is_there != published.is_ok())
    })
}
