//! What the layer over several bricks costs: a plain directory, the same as a volume of one brick,
//! and two copies on one disk, in turns; then how fast copies are made again, and how much moves
//! for a new brick.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{BUCKET, Bench, CONNECTIONS, SMALL_LEN_BYTES, Subject, get, interleave, noise, put};
use crate::Result;
use crate::client::Request;
use crate::load::{Block, requests, run};
use crate::peer::Server;
use crate::report::{Report, Row, Unit};
use crate::sign::sha256;

const PLAIN: &str = "one directory";
const ONE: &str = "one brick";
const TWO: &str = "two bricks";
const HEAL: &str = "heal of 5,000 objects of 4 KiB";
const MOVED: &str = "moved for a fourth brick ÷ its share";
/// Objects that a brick lacks.
const LACKED: usize = 5_000;
/// Entries a second that GlusterFS 10.3 healed on a machine like this one.
const GLUSTER_HEALS_PER_S: f64 = 22.0;
/// Objects of the volume that gets a fourth brick.
const SPREAD: usize = 6_000;
/// Longest time for healing or moving.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(20);

/// All that is measured of bricks.
pub fn all(bench: &mut Bench) -> Result<()> {
    let home = bench.work_dir.join("bricks");
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    costs(bench, &home)?;
    heal(bench, &home)?;
    rebalance(bench, &home)?;
    fs::remove_dir_all(&home)?;
    Ok(())
}

/// A volume of the benchmark's own, with where its bricks are.
struct Volume {
    binary: PathBuf,
    own: PathBuf,
    bricks: Vec<PathBuf>,
    copies: usize,
}

impl Volume {
    fn new(bench: &Bench, home: &Path, name: &str, bricks: usize, copies: usize) -> Self {
        let home = home.join(name);
        Self {
            binary: bench.portico_binary.clone(),
            own: home.join("own"),
            bricks: (0..bricks)
                .map(|number| home.join(format!("b{number}")))
                .collect(),
            copies,
        }
    }

    fn serve(&self, name: &'static str) -> Result<Server> {
        let mut words = vec!["--replicas".to_owned(), self.copies.to_string()];
        for brick in &self.bricks {
            words.extend(["--brick".to_owned(), brick.display().to_string()]);
        }
        Server::portico_with(name, &self.binary, &self.own, "", &words)
    }

    fn command(&self, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--dir").arg(&self.own);
        let output = command.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{command:?}: {said}").into());
        }
        Ok(output.stdout)
    }

    /// Waits until everything has its copies where they should be.
    fn settled(&self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let said: Value =
                serde_json::from_slice(&self.command(&["volume", "status", "--json"])?)?;
            let left = ["short_groups", "to_make_groups", "to_drop_groups"]
                .map(|name| said[name].as_u64().unwrap_or(u64::MAX));
            if left == [0; 3] {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        Err("the volume does not settle".into())
    }

    /// The objects of a brick that begin with a prefix of one directory.
    fn objects(&self, brick: usize) -> Result<BTreeSet<PathBuf>> {
        let top = self.bricks[brick].join("main").join(BUCKET);
        let mut found = BTreeSet::new();
        if !top.exists() {
            return Ok(found);
        }
        for dir in fs::read_dir(top)? {
            for file in fs::read_dir(dir?.path())? {
                let path = file?.path();
                found.insert(path.strip_prefix(&self.bricks[brick])?.to_owned());
            }
        }
        Ok(found)
    }
}

fn costs(bench: &mut Bench, home: &Path) -> Result<()> {
    let servers = [
        Server::portico_with(PLAIN, &bench.portico_binary, &home.join("plain"), "", &[])?,
        Volume::new(bench, home, "one", 1, 1).serve(ONE)?,
        Volume::new(bench, home, "two", 2, 2).serve(TWO)?,
    ];
    for server in &servers {
        server.create_bucket(BUCKET)?;
    }
    let (scale, report) = (&bench.scale, &mut bench.report);
    let (large, small) = (
        Arc::new(noise(scale.large_len_bytes)),
        Arc::new(noise(SMALL_LEN_BYTES)),
    );
    let paths = get::paths();
    let large_path = ["/bench/large".to_owned()];
    for server in &servers {
        server.put(&large_path[0], &large)?;
        for path in &paths {
            server.put(path, &small)?;
        }
    }
    let mut case = |name, unit, run: &dyn Fn(&Server, usize) -> Result<Block>| {
        let subjects: Vec<Subject<'_>> = servers
            .iter()
            .map(|server| -> Subject<'_> {
                (server.name, Box::new(move |round| run(server, round)))
            })
            .collect();
        interleave(report, name, unit, scale.rounds, subjects)
    };
    case(put::LARGE, Unit::MibPerS, &|server, _| {
        put::put_large(server, &large, scale.block)
    })?;
    case(put::SMALL, Unit::OpsPerS, &|server, round| {
        put::put_small(server, &small, round, scale.block)
    })?;
    case(get::LARGE, Unit::MibPerS, &|server, _| {
        get::signed(scale, server, 1, &large_path, large.len() as u64)
    })?;
    case(get::SMALL, Unit::OpsPerS, &|server, _| {
        get::signed(scale, server, CONNECTIONS, &paths, small.len() as u64)
    })
}

/// Puts small objects over many connections.
fn fill(server: &Server, count: usize) -> Result<()> {
    let body = Arc::new(noise(SMALL_LEN_BYTES));
    let (signer, digest) = (server.signer(), sha256(&body));
    let work = (0..CONNECTIONS)
        .map(|connection| {
            let list = (connection..count)
                .step_by(CONNECTIONS)
                .map(|number| format!("/{BUCKET}/d{}/{number}", number % 10))
                .map(|path| {
                    let head = signer.head("PUT", &path, "", &digest, body.len() as u64);
                    Request::large(head, &body)
                })
                .collect();
            requests(server.address, list, false, body.len() as u64, false)
        })
        .collect::<Result<Vec<_>>>()?;
    run(work, PATIENCE)?;
    Ok(())
}

fn heal(bench: &mut Bench, home: &Path) -> Result<()> {
    let volume = Volume::new(bench, home, "heal", 2, 2);
    let server = volume.serve(TWO)?;
    server.create_bucket(BUCKET)?;
    drop(server);
    let away = home.join("away");
    #[expect(clippy::disallowed_methods, reason = "a disk that is pulled out")]
    fs::rename(&volume.bricks[1], &away)?;
    let server = volume.serve(TWO)?;
    fill(&server, LACKED)?;
    drop(server);
    #[expect(clippy::disallowed_methods, reason = "a disk that is put back")]
    fs::rename(&away, &volume.bricks[1])?;
    let begun = Instant::now();
    let server = volume.serve(TWO)?;
    volume.settled()?;
    let block = Block {
        ops: LACKED as u64,
        bytes: (LACKED * SMALL_LEN_BYTES) as u64,
        seconds: begun.elapsed().as_secs_f64(),
        ..Block::default()
    };
    let healed = volume.objects(1)?.len();
    if healed != LACKED {
        return Err(format!("{healed} of {LACKED} objects were healed").into());
    }
    drop(server);
    bench
        .report
        .add(Row::new(HEAL, TWO, Unit::OpsPerS, &[block]));
    Ok(())
}

fn rebalance(bench: &mut Bench, home: &Path) -> Result<()> {
    let mut volume = Volume::new(bench, home, "spread", 3, 2);
    let server = volume.serve(TWO)?;
    server.create_bucket(BUCKET)?;
    fill(&server, SPREAD)?;
    let before: Vec<_> = (0..3)
        .map(|brick| volume.objects(brick))
        .collect::<Result<_>>()?;
    let fourth = home.join("spread").join("b3");
    fs::create_dir(&fourth)?;
    volume.command(&["brick", "add", &fourth.display().to_string()])?;
    volume.bricks.push(fourth);
    std::thread::sleep(Duration::from_secs(1));
    volume.settled()?;
    let mut moved = volume.objects(3)?.len();
    for (brick, before) in before.iter().enumerate() {
        moved += volume.objects(brick)?.difference(before).count();
    }
    drop(server);
    let share = (2 * SPREAD) as f64 / 4.0;
    let measured = Some(moved as f64 / share);
    bench.report.target(MOVED, false, 1.1, measured);
    Ok(())
}

/// The targets, as shares of a plain directory.
pub fn targets(report: &mut Report) {
    for case in [put::LARGE, put::SMALL, get::LARGE, get::SMALL] {
        for (subject, bound) in [(ONE, 0.95), (TWO, 0.45)] {
            let measured = report.ratio(case, subject, PLAIN);
            report.target(
                &format!("{case}: {subject} ÷ {PLAIN}"),
                true,
                bound,
                measured,
            );
        }
    }
    let measured = report.median_of(HEAL, TWO);
    let bound = 20.0 * GLUSTER_HEALS_PER_S;
    report.target(&format!("{HEAL}, a second"), true, bound, measured);
}
