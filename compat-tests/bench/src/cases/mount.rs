//! The mount against the raw directory on the same disk, and beside libfuse's passthrough_hp.
//!
//! "Cold" means that the kernel's dentries and inodes were dropped (and for reads its pages): the
//! first look at each file goes to the file system. "Warm" is the second look.
//!
//! passthrough_hp holds a descriptor for each inode that the kernel remembers, so with the usual
//! limit of 20,000 it cannot stand beside all of this: it is left out where a directory is read
//! with stat, and first looks are taken at two halves, the first of which is forgotten in between.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{BUCKET, Bench, Subject, interleave, noise};
use crate::Result;
use crate::load::Block;
use crate::mounts::Mounted;
use crate::peer::Server;
use crate::report::{Report, Unit};

/// The plain directory.
const RAW: &str = "raw directory";
/// Ours.
const MOUNT: &str = "portico mount";
/// libfuse's example.
const ANCHOR: &str = "passthrough_hp";

/// Length of one sequential read or write.
const CHUNK_LEN_BYTES: usize = 1 << 20;
/// Length of a random read.
const PAGE_LEN_BYTES: usize = 4 << 10;
/// Random reads of a round.
const RANDOM_READS: usize = 65_536;
/// Longest wait until the servers have nothing left to do.
const REST: Duration = Duration::from_secs(120);

/// How long file systems are left to hear of 20,000 forgotten inodes.
const FORGETTING: Duration = Duration::from_millis(500);

/// Where the same work is done.
struct Ground {
    name: &'static str,
    dir: PathBuf,
}

/// What a case is called and counts, and its work in one directory.
struct Case {
    name: &'static str,
    unit: Unit,
    has_anchor: bool,
    before: fn(&Path) -> Result<()>,
    work: fn(&Path, &Size) -> Result<Block>,
}

/// How much of everything.
struct Size {
    file_len_bytes: usize,
    files: usize,
    made_files: usize,
}

const CASES: &[Case] = &[
    Case {
        name: "write 1 GiB",
        unit: Unit::MibPerS,
        has_anchor: true,
        before: without_old_file,
        work: |dir, size| write(dir, size, false),
    },
    Case {
        name: "write 1 GiB and fsync",
        unit: Unit::MibPerS,
        has_anchor: true,
        before: without_old_file,
        work: |dir, size| write(dir, size, true),
    },
    Case {
        name: "read 1 GiB, cold",
        unit: Unit::MibPerS,
        has_anchor: true,
        before: |_| drop_caches("3"),
        work: read,
    },
    Case {
        name: "read 1 GiB, warm",
        unit: Unit::MibPerS,
        has_anchor: true,
        before: |_| Ok(()),
        work: read,
    },
    Case {
        name: "random reads of 4 KiB, warm",
        unit: Unit::OpsPerS,
        has_anchor: true,
        before: |_| Ok(()),
        work: random_reads,
    },
    Case {
        name: "readdir of 20,000, cold",
        unit: Unit::OpsPerS,
        has_anchor: true,
        before: |_| drop_caches("2"),
        work: |dir, size| list(dir, size, false),
    },
    Case {
        name: "readdir of 20,000, warm",
        unit: Unit::OpsPerS,
        has_anchor: true,
        before: |_| Ok(()),
        work: |dir, size| list(dir, size, false),
    },
    Case {
        name: "readdir of 20,000 with stat, cold",
        unit: Unit::OpsPerS,
        has_anchor: false,
        before: |_| drop_caches("2"),
        work: |dir, size| list(dir, size, true),
    },
    Case {
        name: "readdir of 20,000 with stat, warm",
        unit: Unit::OpsPerS,
        has_anchor: false,
        before: |_| Ok(()),
        work: |dir, size| list(dir, size, true),
    },
    Case {
        name: "first stat of 20,000",
        unit: Unit::OpsPerS,
        has_anchor: true,
        before: |_| Ok(()),
        work: stat,
    },
    Case {
        name: "create, close, unlink of 5,000",
        unit: Unit::OpsPerS,
        has_anchor: true,
        before: |_| Ok(()),
        work: make_and_remove,
    },
];

/// All cases, each in turns on each ground.
pub fn all(bench: &mut Bench) -> Result<()> {
    let home = bench.work_dir.join("mount");
    let size = Size {
        file_len_bytes: bench.scale.mount_file_len_bytes,
        files: 20_000,
        made_files: 5_000,
    };
    let tree = home.join("tree");
    let raw = home.join("raw");
    let bucket = tree.join("main").join(BUCKET);
    let source = home.join("source");
    for dir in [&raw, &bucket, &source] {
        fill(dir, &size)?;
    }
    let server = Server::portico(&bench.portico_binary, &tree, "")?;
    let [our_point, anchor_point] = points(&bench.work_dir);
    let ours = Mounted::portico(&bench.portico_binary, &tree, &our_point)?;
    let anchor = match &bench.anchor_binary {
        Some(binary) => Some(Mounted::anchor(binary, &source, &anchor_point)?),
        None => {
            let note = "No --anchor: the rows of passthrough_hp are left out.";
            bench.report.notes.push(note.into());
            None
        }
    };
    let mut grounds = vec![
        Ground {
            name: RAW,
            dir: raw,
        },
        Ground {
            name: MOUNT,
            dir: ours.point.join(BUCKET),
        },
    ];
    grounds.extend(anchor.as_ref().map(|anchor| Ground {
        name: ANCHOR,
        dir: anchor.point.clone(),
    }));
    for case in CASES {
        let (server, size) = (&server, &size);
        let subjects: Vec<Subject<'_>> = grounds
            .iter()
            .filter(|ground| case.has_anchor || ground.name != ANCHOR)
            .map(|ground| -> Subject<'_> {
                let run = move |_| {
                    (case.before)(&ground.dir)?;
                    rest(server)?;
                    if case.unit == Unit::MibPerS {
                        own_memory(size.file_len_bytes);
                    }
                    (case.work)(&ground.dir, size)
                };
                (ground.name, Box::new(run))
            })
            .collect();
        let rounds = bench.scale.rounds;
        interleave(&mut bench.report, case.name, case.unit, rounds, subjects)?;
    }
    drop((anchor, ours, server));
    fs::remove_dir_all(&home)?;
    Ok(())
}

/// Where file systems are mounted below a directory of measurements.
pub fn points(dir: &Path) -> [PathBuf; 2] {
    ["ours", "anchor"].map(|name| dir.join("mount").join(name))
}

/// The targets, as shares of the raw directory and of the anchor.
pub fn targets(report: &mut Report) {
    let bounds = [
        ("write 1 GiB", RAW, 0.95),
        ("write 1 GiB and fsync", RAW, 0.95),
        ("read 1 GiB, cold", RAW, 0.95),
        ("read 1 GiB, warm", RAW, 0.95),
        ("random reads of 4 KiB, warm", RAW, 0.9),
        ("readdir of 20,000, cold", RAW, 0.6),
        ("readdir of 20,000, warm", RAW, 0.6),
        ("readdir of 20,000 with stat, cold", RAW, 0.5),
        ("readdir of 20,000 with stat, warm", RAW, 0.5),
        ("first stat of 20,000", ANCHOR, 1.0),
        ("create, close, unlink of 5,000", ANCHOR, 1.0),
    ];
    for (case, other, bound) in bounds {
        let measured = report.ratio(case, MOUNT, other);
        report.target(&format!("{case} ÷ {other}"), true, bound, measured);
    }
}

/// The files that are read, listed and looked at.
fn fill(dir: &Path, size: &Size) -> Result<()> {
    let many = dir.join("many");
    fs::create_dir_all(&many)?;
    // Directories made in it are spread over the disk, as far from freed inodes as can be.
    let _ = Command::new("chattr").arg("+T").arg(dir).status();
    for number in 0..size.files {
        fs::write(many.join(name(number)), b"a small file")?;
    }
    write(dir, size, true)?;
    Ok(())
}

fn name(number: usize) -> String {
    format!("file-{number:06}")
}

/// Empties the kernel's memory of names and inodes ("2"), of pages too ("3"). Source: proc(5).
fn drop_caches(what: &str) -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", what)
        .map_err(|error| format!("/proc/sys/vm/drop_caches: {error}; root can"))?;
    Ok(())
}

/// A file of before is gone, and its bytes are no longer on their way to the disk.
fn without_old_file(dir: &Path) -> Result<()> {
    fs::remove_file(dir.join("large"))?;
    rustix::fs::sync();
    Ok(())
}

/// Waits until the server has nothing left to do, such as hashing what was written, and the
/// kernel has told every file system what it forgot.
fn rest(server: &Server) -> Result<()> {
    let started = Instant::now();
    let mut before = server.process.cpu_ticks()?;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = server.process.cpu_ticks()?;
        if now <= before + 2 || started.elapsed() > REST {
            return Ok(());
        }
        before = now;
    }
}

/// Has the machine's memory in hand. In a virtual machine, pages that nobody used for a while are
/// given back to its host, and the first touch of each costs more than all else in a write (2.4 s
/// of processor time for 1 GiB, against 0.2 s): who happens to get them would lose.
fn own_memory(len_bytes: usize) {
    drop(std::hint::black_box(vec![1_u8; len_bytes + len_bytes / 2]));
}

/// Times a piece of work.
fn timed(work: impl FnOnce() -> Result<(u64, u64)>) -> Result<Block> {
    let started = Instant::now();
    let (ops, bytes) = work()?;
    Ok(Block {
        ops,
        bytes,
        seconds: started.elapsed().as_secs_f64(),
        latencies_us: Vec::new(),
    })
}

fn write(dir: &Path, size: &Size, sync: bool) -> Result<Block> {
    let chunk = noise(CHUNK_LEN_BYTES);
    let chunks = size.file_len_bytes / CHUNK_LEN_BYTES;
    timed(|| {
        let mut file = File::create(dir.join("large"))?;
        for _ in 0..chunks {
            file.write_all(&chunk)?;
        }
        if sync {
            file.sync_all()?;
        }
        drop(file);
        Ok((chunks as u64, size.file_len_bytes as u64))
    })
}

fn read(dir: &Path, size: &Size) -> Result<Block> {
    let mut chunk = vec![0; CHUNK_LEN_BYTES];
    timed(|| {
        let mut file = File::open(dir.join("large"))?;
        let mut total = 0;
        loop {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            total += count as u64;
        }
        expect(total as usize, size.file_len_bytes, "bytes read")?;
        Ok((1, total))
    })
}

fn random_reads(dir: &Path, size: &Size) -> Result<Block> {
    let pages = size.file_len_bytes / PAGE_LEN_BYTES;
    let mut page = vec![0; PAGE_LEN_BYTES];
    let file = File::open(dir.join("large"))?;
    timed(|| {
        for number in 0..RANDOM_READS {
            let at = (number * 7_919_993) % pages * PAGE_LEN_BYTES;
            file.read_exact_at(&mut page, at as u64)?;
        }
        Ok((RANDOM_READS as u64, (RANDOM_READS * PAGE_LEN_BYTES) as u64))
    })
}

fn list(dir: &Path, size: &Size, with_stat: bool) -> Result<Block> {
    timed(|| {
        let mut count = 0;
        for entry in fs::read_dir(dir.join("many"))? {
            let entry = entry?;
            if with_stat {
                entry.metadata()?;
            }
            count += 1;
        }
        expect(count, size.files, "names read")?;
        Ok((count as u64, 0))
    })
}

fn stat(dir: &Path, size: &Size) -> Result<Block> {
    let many = dir.join("many");
    let paths: Vec<PathBuf> = (0..size.files)
        .map(|number| many.join(name(number)))
        .collect();
    let mut whole = Block::default();
    for half in paths.chunks(size.files / 2) {
        drop_caches("2")?;
        std::thread::sleep(FORGETTING);
        let block = timed(|| {
            for path in half {
                fs::symlink_metadata(path)?;
            }
            Ok((half.len() as u64, 0))
        })?;
        whole.ops += block.ops;
        whole.seconds += block.seconds;
    }
    Ok(whole)
}

/// In a new directory each time, of a name that no earlier run had: ext4 steps over inodes freed
/// within the last minutes, one by one, and chooses a directory's place by its name.
fn make_and_remove(dir: &Path, size: &Size) -> Result<Block> {
    static DIRECTORIES: AtomicUsize = AtomicUsize::new(0);
    let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
    let made = dir.join(format!("made-{}-{number}", std::process::id()));
    fs::create_dir(&made)?;
    let paths: Vec<PathBuf> = (0..size.made_files)
        .map(|number| made.join(name(number)))
        .collect();
    timed(|| {
        for path in &paths {
            drop(OpenOptions::new().write(true).create_new(true).open(path)?);
        }
        for path in &paths {
            fs::remove_file(path)?;
        }
        Ok((size.made_files as u64, 0))
    })
}

fn expect(found: usize, wanted: usize, what: &str) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{found} {what}, not {wanted}").into())
}
