//! Pairs portico with nginx, a raw write loop and a peer S3 server in one run.
//!
//! Clients, servers and disk share one machine; every figure is to be read as a share of another
//! figure of the same run. Requests are signed before the clock starts. Nothing leaves 127.0.0.1.

mod cases;
mod client;
mod load;
mod mounts;
mod nginx;
mod peer;
mod raw;
mod report;
mod sign;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cases::{Bench, Scale, bricks, get, list, memory, mount, multipart, put};
use clap::Parser;
use nginx::Nginx;
use peer::Server;
use report::Report;

/// What can go wrong, said in words.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The command line.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Args {
    /// Our release binary
    #[arg(long, default_value = "target/release/portico")]
    portico: PathBuf,
    /// nginx; without one its rows are left out
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
    /// s3s-fs, from `cargo install s3s-fs --features binary`; without one its rows are left out
    #[arg(long)]
    peer: Option<PathBuf>,
    /// libfuse's passthrough_hp (docs/performance.md says how to build it); without one its rows
    /// are left out
    #[arg(long)]
    anchor: Option<PathBuf>,
    /// Where all files are written: on the disk that is measured
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// A look in about a minute, with small sizes
    #[arg(long)]
    quick: bool,
    /// Rounds of each case
    #[arg(long)]
    rounds: Option<usize>,
    /// Objects of the large flat bucket
    #[arg(long)]
    list_objects: Option<usize>,
    /// Only these cases
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// Keep the flat buckets and their index for the next run
    #[arg(long)]
    keep_list: bool,
    /// Write the figures here as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables here; they go to standard output as well
    #[arg(long)]
    markdown: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    GetLarge,
    GetSmall,
    PutLarge,
    PutSmall,
    Complete,
    Memory,
    List,
    Mount,
    Bricks,
}

impl Case {
    const ALL: [Self; 9] = [
        Self::GetLarge,
        Self::GetSmall,
        Self::PutLarge,
        Self::PutSmall,
        Self::Complete,
        Self::Memory,
        Self::List,
        Self::Mount,
        Self::Bricks,
    ];

    fn run(self, bench: &mut Bench) -> Result<()> {
        match self {
            Self::GetLarge => get::large(bench),
            Self::GetSmall => get::small(bench),
            Self::PutLarge => put::large(bench),
            Self::PutSmall => put::small(bench),
            Self::Complete => multipart::complete(bench),
            Self::Memory => memory::uploads(bench),
            Self::List => list::pages(bench),
            Self::Mount => mount::all(bench),
            Self::Bricks => bricks::all(bench),
        }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portico-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let is_run = |case| args.only.is_empty() || args.only.contains(&case);
    let scale = scale(args);
    let mut bench = set_up(args, scale)?;
    for case in Case::ALL {
        if is_run(case) {
            eprintln!("-- {case:?}");
            if let Err(error) = case.run(&mut bench) {
                eprintln!("{case:?}: {error}");
                bench.report.notes.push(format!("{case:?} failed: {error}"));
            }
        }
    }
    let Bench {
        scale,
        report,
        servers,
        nginx,
        ..
    } = bench;
    drop((servers, nginx));
    let mut report = report;
    let has_own = |case: &Case| matches!(case, Case::Mount | Case::Bricks);
    if args.only.is_empty() || !args.only.iter().all(has_own) {
        report = with_targets(report, scale.list_objects);
    }
    if is_run(Case::Mount) {
        mount::targets(&mut report);
    }
    if is_run(Case::Bricks) {
        bricks::targets(&mut report);
    }
    let tables = report.markdown();
    println!("{tables}");
    if let Some(path) = &args.markdown {
        fs::write(path, &tables)?;
    }
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    clean(&args.dir, args.keep_list);
    if report.notes.iter().any(|note| note.contains(" failed: ")) {
        return Err("a case failed".into());
    }
    Ok(())
}

fn scale(args: &Args) -> Scale {
    let mut scale = if args.quick {
        Scale::quick()
    } else {
        Scale::full()
    };
    scale.rounds = args.rounds.unwrap_or(scale.rounds).max(1);
    scale.list_objects = args
        .list_objects
        .unwrap_or(scale.list_objects)
        .max(2 * list::SMALL_BUCKET_OBJECTS);
    scale
}

/// Starts the servers on empty directories.
fn set_up(args: &Args, scale: Scale) -> Result<Bench> {
    clean(&args.dir, args.keep_list);
    fs::create_dir_all(&args.dir)?;
    let work_dir = args.dir.canonicalize()?;
    let portico_binary = args.portico.canonicalize().map_err(|error| {
        format!(
            "{}: {error}; cargo build --release --bin portico",
            args.portico.display()
        )
    })?;
    let mut report = Report {
        setting: setting(&scale, &work_dir),
        ..Report::default()
    };
    let mut servers = vec![Server::portico(
        &portico_binary,
        &work_dir.join("portico"),
        "",
    )?];
    let peer_binary = args
        .peer
        .as_ref()
        .map(|path| path.canonicalize())
        .transpose()?;
    let anchor_binary = args
        .anchor
        .as_ref()
        .map(|path| path.canonicalize())
        .transpose()?;
    match &peer_binary {
        Some(binary) => servers.push(Server::peer(
            binary,
            &work_dir.join("peer"),
            &work_dir.join("peer.log"),
        )?),
        None => report
            .notes
            .push("No --peer: its rows are left out.".into()),
    }
    for server in &servers {
        server.create_bucket(cases::BUCKET)?;
    }
    let nginx = if args.nginx.exists() {
        Some(Nginx::start(&args.nginx, &servers[0].buckets, &work_dir)?)
    } else {
        report.notes.push("No nginx: its rows are left out.".into());
        None
    };
    Ok(Bench {
        scale,
        work_dir,
        portico_binary,
        peer_binary,
        anchor_binary,
        servers,
        nginx,
        report,
    })
}

/// Removes what a run wrote; the flat buckets stay where the next run wants them.
fn clean(dir: &Path, keep_list: bool) {
    for point in mount::points(dir) {
        mounts::unmount(&point);
    }
    for name in ["portico", "peer", "nginx", "raw", "mount", "bricks"] {
        let _ = fs::remove_dir_all(dir.join(name));
    }
    if !keep_list {
        let _ = fs::remove_dir_all(dir.join("list"));
    }
}

/// The machine, the command and the settings.
fn setting(scale: &Scale, dir: &Path) -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name)
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_mib = read("/proc/meminfo")
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024;
    let kernel = read("/proc/sys/kernel/osrelease");
    let command: Vec<String> = std::env::args().skip(1).collect();
    vec![
        format!(
            "machine: {model}, {cores} cores, {memory_mib} MiB, Linux {}, {}",
            kernel.trim(),
            file_system(dir)
        ),
        format!(
            "command: `cargo run --release -p portico-bench -- {}`",
            command.join(" ")
        ),
        format!(
            "{} rounds in turns, {:.1} s each; portico in strict mode; clients on the same cores",
            scale.rounds,
            scale.block.as_secs_f64()
        ),
    ]
}

/// Type and options of the file system below a directory.
fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind, options) = (words.next()?, words.next()?, words.next()?);
            dir.starts_with(point)
                .then(|| (point.len(), format!("{kind} ({options})")))
        })
        .max_by_key(|(len, _)| *len)
        .map_or_else(|| "unknown file system".to_owned(), |(_, text)| text)
}

/// States the project's targets beside what was measured.
fn with_targets(mut report: Report, list_objects: usize) -> Report {
    let get_large = report.ratio(get::LARGE, "portico", "nginx");
    report.target("GET 64 MiB ÷ nginx", true, 0.9, get_large);
    let get_small = report.ratio(get::SMALL, "portico", "nginx");
    report.target("GET 4 KiB ÷ nginx", true, 0.5, get_small);
    let slower = [put::MD5, put::RAW]
        .iter()
        .filter_map(|subject| Some((report.median_of(put::LARGE, subject)?, *subject)))
        .min_by(|one, two| one.0.total_cmp(&two.0));
    let put_large = slower.and_then(|(_, subject)| report.ratio(put::LARGE, "portico", subject));
    let name = slower.map_or("the slower of MD5 and raw loop", |(_, subject)| subject);
    report.target(&format!("PUT 64 MiB ÷ {name}"), true, 0.85, put_large);
    let put_small = report.ratio(put::SMALL, "portico", put::RAW);
    report.target("PUT 4 KiB ÷ raw loop", true, 0.6, put_small);
    let large = list::case_name(list_objects);
    let small = list::case_name(list::SMALL_BUCKET_OBJECTS);
    let (large_ms, small_ms) = (
        report.median_of(&large, "portico"),
        report.median_of(&small, "portico"),
    );
    report.target(&format!("{large}, median ms"), false, 15.0, large_ms);
    report.target(&format!("{small}, median ms"), false, 15.0, small_ms);
    let growth = large_ms.zip(small_ms).map(|(large, small)| large / small);
    report.target("LIST large ÷ small bucket", false, 1.5, growth);
    let complete = report.median_of(multipart::CASE, "portico");
    report.target("Complete, ms", false, 50.0, complete);
    let memory = report.median_of(memory::CASE, "portico");
    report.target("Peak memory, MiB", false, 150.0, memory);
    report
}
