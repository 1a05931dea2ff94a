//! Bytes and attributes: what one mount acknowledged is what the other shows.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, XattrFlags, fgetxattr, flock, fsetxattr, fsync};

use super::names::{move_file, open_dir};
use super::probe::{Probe, Row, Rule};

const XATTR: &str = "user.portico.doctor";
/// As much as a record takes before it is kept in a file of its own, in bytes.
const RECORD_LEN_BYTES: usize = 3 << 10;

/// Writes a file as a gateway publishes an object: whole, synced, then moved to its name.
pub(super) fn publish(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let staged = dir.join(format!("{name}.staged"));
    let mut file = File::create(&staged)?;
    file.write_all(bytes)?;
    set_xattr(&file, bytes)?;
    file.sync_all()?;
    drop(file);
    move_file(&staged, &dir.join(name))
}

fn set_xattr(file: &File, value: &[u8]) -> io::Result<()> {
    let value = &value[..value.len().min(RECORD_LEN_BYTES)];
    Ok(fsetxattr(file, XATTR, value, XattrFlags::empty())?)
}

fn xattr(file: &File) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 2 * RECORD_LEN_BYTES];
    let len = fgetxattr(file, XATTR, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

fn text(round: u32) -> Vec<u8> {
    format!("round {round} ")
        .repeat(1 + (round as usize % 7) * 30)
        .into_bytes()
}

/// Adds the rows.
pub(super) fn examine(probe: &Probe, rows: &mut Vec<Row>) {
    rows.push(stale_after_replace(probe));
    rows.push(xattr_with_its_bytes(probe));
    rows.push(whole_while_replaced(probe));
    rows.push(open_file_keeps_its_bytes(probe));
    rows.push(xattr_changed_in_place(probe));
    rows.push(long_xattr(probe));
    rows.push(locks(probe));
    rows.push(syncs(probe));
}

fn stale_after_replace(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "read after replace",
        "a GET on one gateway would answer what a PUT on another has replaced",
    );
    let counted = probe.count(probe.rounds, |round| {
        let (writer, reader) = probe.sides(round);
        publish(writer, "replaced", &text(round))?;
        Ok(std::fs::read(reader.join("replaced"))? != text(round))
    });
    rule.counted("reads were stale", counted)
}

fn xattr_with_its_bytes(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "xattr of a replaced file",
        "metadata would not be those of the bytes",
    );
    let counted = probe.count(probe.rounds, |round| {
        let (writer, reader) = probe.sides(round);
        publish(writer, "attributed", &text(round))?;
        let file = File::open(reader.join("attributed"))?;
        Ok(xattr(&file)? != text(round))
    });
    rule.counted("were another file's", counted)
}

fn whole_while_replaced(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "rename is atomic",
        "a GET during a PUT would fail, or answer parts of two objects",
    );
    let over = AtomicBool::new(false);
    let counted = publish(&probe.a, "moving", &text(0)).and_then(|()| {
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let (mut wrong, mut of) = (0, 0);
                while !over.load(Ordering::Relaxed) {
                    of += 1;
                    wrong += u32::from(!is_whole(&probe.b.join("moving"))?);
                }
                Ok::<_, io::Error>((wrong, of))
            });
            let written =
                (1..=probe.rounds).try_for_each(|round| publish(&probe.a, "moving", &text(round)));
            over.store(true, Ordering::Relaxed);
            let read = reading
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the reader ended")));
            written.and(read)
        })
    });
    rule.counted("reads were torn or found nothing", counted)
}

fn is_whole(path: &Path) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // A gateway opens it again then.
        Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let round = bytes
        .split(|byte| *byte == b' ')
        .nth(1)
        .and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    Ok(round.is_some_and(|round| bytes == text(round)))
}

fn open_file_keeps_its_bytes(probe: &Probe) -> Row {
    let rule = Rule::needs(
        "open file outlives its name",
        "a GET under way would break when the object is replaced or removed",
    );
    let counted = probe.count(probe.rounds.min(50), |round| {
        let (writer, reader) = probe.sides(round);
        publish(writer, "held", &text(round))?;
        let mut file = File::open(reader.join("held"))?;
        match round % 4 {
            0 | 1 => std::fs::remove_file(writer.join("held"))?,
            _ => publish(writer, "held", b"another")?,
        }
        let mut bytes = Vec::new();
        let read = file.read_to_end(&mut bytes);
        Ok(read.is_err() || bytes != text(round))
    });
    rule.counted("reads broke", counted)
}

fn xattr_changed_in_place(probe: &Probe) -> Row {
    let rule = Rule::wants(
        "xattr changed in place",
        "new tags of objects over 8 MiB are seen late by other gateways (MooseFS: mount with \
         mfsxattrcacheto=0)",
    );
    let counted = probe.count(probe.rounds.min(100), |round| {
        let (writer, reader) = probe.sides(round);
        if round == 0 {
            publish(writer, "patched", &text(round))?;
        }
        // The reader knows the one before.
        let _ = xattr(&File::open(reader.join("patched"))?)?;
        set_xattr(&File::open(writer.join("patched"))?, &text(round + 1))?;
        Ok(xattr(&File::open(reader.join("patched"))?)? != text(round + 1))
    });
    rule.counted("were seen late", counted)
}

fn long_xattr(probe: &Probe) -> Row {
    let rule = Rule::needs("xattr of 3 KiB", "metadata of objects could not be kept");
    let kept = || {
        let value = vec![b'x'; RECORD_LEN_BYTES];
        publish(&probe.a, "long", &value)?;
        Ok::<_, io::Error>(xattr(&File::open(probe.b.join("long"))?)? == value)
    };
    match kept() {
        Ok(kept) => rule.judged(kept, format!("{RECORD_LEN_BYTES} bytes")),
        Err(error) => rule.judged(false, error.to_string()),
    }
}

fn locks(probe: &Probe) -> Row {
    let rule = Rule::wants(
        "flock between mounts",
        "`portico user` and `portico key` must not be run on two hosts at once",
    );
    let tried = || {
        let held = File::create(probe.a.join("locked"))?;
        let other = File::open(probe.b.join("locked"))?;
        flock(&held, FlockOperation::NonBlockingLockExclusive)?;
        let refused = flock(&other, FlockOperation::NonBlockingLockExclusive).is_err();
        flock(&held, FlockOperation::Unlock)?;
        let granted = flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok();
        Ok::<_, io::Error>((refused, granted))
    };
    match tried() {
        Ok((refused, granted)) => rule.judged(
            refused && granted,
            match (refused, granted) {
                (true, true) => "kept and given back".to_owned(),
                (false, _) => "not seen by the other mount".to_owned(),
                (true, false) => "not given back".to_owned(),
            },
        ),
        Err(error) => rule.judged(false, error.to_string()),
    }
}

fn syncs(probe: &Probe) -> Row {
    let rule = Rule::wants(
        "fsync of a directory",
        "a name is as durable as the file system makes it by itself",
    );
    let synced = open_dir(&probe.a).and_then(|dir| Ok(fsync(dir)?));
    match synced {
        Ok(()) => rule.judged(true, "done".to_owned()),
        Err(error) => rule.judged(false, error.to_string()),
    }
}
