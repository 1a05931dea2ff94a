//! What gateways' claims rest on: a directory is taken by one, and who lost it reaches nothing
//! through the descriptor that it still has.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Barrier;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, renameat};

use super::claims::{race, won};
use super::names::{move_file, open_dir};
use super::probe::{Probe, Row, Rule};

/// Adds the rows.
pub(super) fn examine(probe: &Probe, rows: &mut Vec<Row>) {
    let one = Rule::needs(
        "a claim given up has one taker",
        "conditional requests would not be exact between gateways",
    );
    rows.push(one.counted("had none or two", given_up(probe)));
    let one = Rule::needs(
        "a directory that is gone takes nothing",
        "a gateway that slept could delete what came after it",
    );
    rows.push(one.counted("took something", gone(probe)));
    let one = Rule::needs(
        "a directory is removed or taken into",
        "a PUT beside the removal of its directory or bucket could be lost",
    );
    rows.push(one.counted("did both or neither", removed_or_used(probe)));
}

/// Two that rename a directory with a file in it onto one that is empty.
fn given_up(probe: &Probe) -> io::Result<(u32, u32)> {
    for round in 0..probe.rounds {
        std::fs::create_dir(probe.a.join(format!("given-{round}")))?;
    }
    race(probe, |dir, round, who| {
        let staged = dir.join(format!("given-{round}-{who}"));
        std::fs::create_dir(&staged)?;
        File::create(staged.join(who))?;
        won(move_file(&staged, &dir.join(format!("given-{round}"))))
    })
}

/// One holds a directory open, which the other empties and then removes, or replaces by its own:
/// through the descriptor nothing can be moved, linked or made there.
fn gone(probe: &Probe) -> io::Result<(u32, u32)> {
    probe.count(probe.rounds, |round| {
        let (sleeper, other) = probe.sides(round / 2);
        let name = format!("left-{round}");
        std::fs::create_dir(sleeper.join(&name))?;
        File::create(sleeper.join(&name).join("own"))?;
        let held = open_dir(&sleeper.join(&name))?;
        let object = sleeper.join(format!("{name}-object"));
        File::create(&object)?;

        std::fs::remove_file(other.join(&name).join("own"))?;
        match round % 2 {
            0 => std::fs::remove_dir(other.join(&name))?,
            _ => {
                let staged = other.join(format!("{name}-next"));
                std::fs::create_dir(&staged)?;
                File::create(staged.join("next"))?;
                move_file(&staged, &other.join(&name))?;
            }
        }
        let has_taken = reaches(&held, &object);
        Ok(has_taken || !other.join(format!("{name}-object")).exists())
    })
}

/// Whether anything can be done in a directory that has no name any more.
fn reaches(held: &OwnedFd, object: &Path) -> bool {
    let made = openat(
        held,
        "made",
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    );
    let linked = linkat(CWD, object, held, "linked", AtFlags::empty());
    let moved = renameat(CWD, object, held, "moved");
    made.is_ok() || linked.is_ok() || moved.is_ok()
}

/// One removes an empty directory while the other moves a file into it: one of both succeeds.
fn removed_or_used(probe: &Probe) -> io::Result<(u32, u32)> {
    probe.count(probe.rounds, |round| {
        let (user, remover) = probe.sides(round);
        let (name, object) = (format!("used-{round}"), format!("used-{round}-object"));
        std::fs::create_dir(user.join(&name))?;
        File::create(user.join(&object))?;
        let held = open_dir(&user.join(&name))?;
        let start = Barrier::new(2);
        let (used, removed) = std::thread::scope(|scope| {
            let removing = scope.spawn(|| {
                start.wait();
                std::fs::remove_dir(remover.join(&name))
            });
            start.wait();
            let used = renameat(CWD, user.join(&object), &held, "object");
            (used, removing.join())
        });
        let removed = removed.unwrap_or_else(|_| Err(io::Error::other("a racer ended")));
        let is_there = remover.join(&name).join("object").exists();
        Ok(used.is_ok() == removed.is_ok() || is_there != used.is_ok())
    })
}
