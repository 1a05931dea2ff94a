//! Names and times: what one mount makes or removes, the other sees at once.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fsstore::clock::Clock;
use rustix::fs::{CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, futimens, open, renameat};

use super::data::publish;
use super::probe::{Probe, Row, Rule};

/// The row by which gateways decide whether to keep names in memory.
pub(super) const DIR_TIMES: &str = "times of a directory";
/// Names in a directory that is listed while they are replaced.
const LISTED: u32 = 40;
/// Most that clocks may differ, in seconds.
const MAX_SKEW_S: i64 = 5;

/// rename(2).
pub(super) fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat(CWD, from, CWD, to)?)
}

/// A directory held open.
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn is_there(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn is_listed(dir: &Path, name: &str) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        if entry?.file_name() == name {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds the rows.
pub(super) fn examine(probe: &Probe, rows: &mut Vec<Row>) {
    rows.push(read_after_delete(probe));
    rows.push(read_after_create(probe));
    rows.push(listed_at_once(probe));
    rows.push(listed_while_replaced(probe));
    rows.push(dir_times(probe));
    rows.push(granularity(probe));
    rows.push(agreement(probe));
}

fn read_after_delete(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "read after delete",
        "a GET on one gateway would answer what was deleted on another",
    );
    let counted = probe.count(probe.rounds, |round| {
        let (writer, reader) = probe.sides(round);
        publish(writer, "deleted", b"here")?;
        let _ = is_there(&reader.join("deleted"))?;
        std::fs::remove_file(writer.join("deleted"))?;
        is_there(&reader.join("deleted"))
    });
    rule.counted("were still there", counted)
}

fn read_after_create(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "read after create",
        "a GET on one gateway would not find what was put on another",
    );
    let counted = probe.count(probe.rounds, |round| {
        let (writer, reader) = probe.sides(round);
        let name = format!("created-{round}");
        // The reader knows that it is not there.
        let _ = is_there(&reader.join(&name))?;
        publish(writer, &name, b"here")?;
        // A gateway looks twice before it says that there is none.
        let found = is_there(&reader.join(&name))? || is_there(&reader.join(&name))?;
        std::fs::remove_file(writer.join(&name))?;
        Ok(!found)
    });
    rule.counted("were not found", counted)
}

fn listed_at_once(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "list after create and delete",
        "a listing on one gateway would miss what was put on another, or show what was deleted",
    );
    let counted = probe.count(probe.rounds.min(100), |round| {
        let (writer, reader) = probe.sides(round);
        publish(writer, "listed", b"here")?;
        let is_missed = !is_listed(reader, "listed")?;
        std::fs::remove_file(writer.join("listed"))?;
        Ok(is_missed || is_listed(reader, "listed")?)
    });
    rule.counted("listings were stale", counted)
}

fn listed_while_replaced(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "list while names are replaced",
        "a listing would miss an object that a PUT replaces at that moment",
    );
    let measured = || {
        let names: Vec<String> = (0..LISTED).map(|n| format!("replaced-{n:02}")).collect();
        for name in &names {
            publish(&probe.a, name, b"here")?;
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let replacing = scope.spawn(|| {
                let mut turns = names.iter().cycle();
                while !over.load(Ordering::Relaxed) {
                    turns
                        .next()
                        .map_or(Ok(()), |name| publish(&probe.a, name, b"again"))?;
                }
                Ok::<_, io::Error>(())
            });
            let counted = probe.count(probe.rounds, |_| {
                let mut listed = BTreeSet::new();
                for entry in std::fs::read_dir(&probe.b)? {
                    listed.insert(entry?.file_name());
                }
                Ok(!names.iter().all(|name| listed.contains(OsStr::new(name))))
            });
            over.store(true, Ordering::Relaxed);
            let replaced = replacing
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the writer ended")));
            replaced.and(counted)
        })
    };
    rule.counted("listings were short", measured())
}

fn dir_times(probe: &Probe) -> Row {
    let rule = Rule::wants(
        DIR_TIMES,
        "each page of a listing reads its directories anew: slower where they are large",
    );
    let pause = match keeps_nanoseconds(&probe.a) {
        Ok(true) => Duration::from_millis(20),
        // The next change of the same second has the same time.
        _ => Duration::from_millis(1_100),
    };
    let rounds = match pause.as_millis() {
        20 => probe.rounds.min(60),
        _ => probe.rounds.min(8),
    };
    let counted = probe.count(rounds, |round| {
        let (writer, reader) = probe.sides(round);
        let held = open_dir(reader)?;
        let state = || {
            let stat = rustix::fs::fstat(&held)?;
            Ok::<_, io::Error>((stat.st_mtime, stat.st_mtime_nsec))
        };
        std::thread::sleep(pause);
        // Just before the change: what a mount remembers of a directory must not outlive it.
        let before = state()?;
        match round % 4 {
            0 | 1 => publish(writer, "timed", b"here")?,
            _ => {
                let path = writer.join("timed");
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        publish(writer, "timed", b"here")?;
                    }
                    other => other?,
                }
            }
        }
        Ok(state()? == before)
    });
    rule.counted("changes did not move them", counted)
}

fn keeps_nanoseconds(dir: &Path) -> io::Result<bool> {
    let path = dir.join("timestamp");
    let file = File::create(&path)?;
    let odd = Timespec {
        tv_sec: 1_000_000,
        tv_nsec: 123_456_789,
    };
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    futimens(
        &file,
        &Timestamps {
            last_access: omit,
            last_modification: odd,
        },
    )?;
    drop(file);
    Ok(std::fs::metadata(&path)?.mtime_nsec() == 123_456_789)
}

fn granularity(probe: &Probe) -> Row {
    let rule = Rule::wants(
        "granularity of times",
        "a program that changes a file in place in the second of its PUT, and leaves the length, \
         is not noticed",
    );
    match keeps_nanoseconds(&probe.a) {
        Ok(true) => rule.judged(true, "nanoseconds".to_owned()),
        Ok(false) => rule.judged(false, "seconds".to_owned()),
        Err(error) => rule.judged(false, error.to_string()),
    }
}

fn agreement(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "agreement of times",
        "clocks differ by more than 5 s: run NTP on every host and on the file system's servers",
    );
    let measured = || {
        let mut worst = 0;
        for dir in [&probe.a, &probe.b] {
            let path = dir.join("dated");
            std::fs::write(&path, b"now")?;
            let now = Clock::system().now().secs();
            for other in [&probe.a, &probe.b] {
                let mtime = std::fs::metadata(other.join("dated"))?.mtime();
                worst = worst.max((mtime - now).abs());
            }
            std::fs::remove_file(&path)?;
        }
        Ok::<_, io::Error>(worst)
    };
    match measured() {
        Ok(worst) => rule.judged(worst <= MAX_SKEW_S, format!("within {} s", worst.max(1))),
        Err(error) => rule.judged(false, error.to_string()),
    }
}
