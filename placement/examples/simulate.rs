//! Runs seeds of the simulation, or the table of breaches.
//!
//!     cargo run --release -p portico-placement --features simulation --example simulate -- 100000
//!     cargo run --release -p portico-placement --features simulation --example simulate -- breaches 20000
//!     cargo run --release -p portico-placement --features simulation --example simulate -- seed 42

use std::process::ExitCode;
use std::time::Instant;

use placement::simulation::{Figures, breach_table, run, run_traced};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    match (words.first().map(String::as_str), number(0), number(1)) {
        (Some("breaches"), _, limit) => {
            breaches(limit.unwrap_or(10_000), words.get(2..).unwrap_or_default())
        }
        (Some("seed"), _, Some(seed)) => match run_traced(seed, None, |line| println!("{line}")) {
            Ok(_) => ExitCode::SUCCESS,
            Err(violation) => {
                println!("{violation}");
                ExitCode::FAILURE
            }
        },
        (_, Some(first), Some(count)) => seeds(first..first + count),
        (_, Some(count), None) => seeds(0..count),
        _ => {
            eprintln!(
                "simulate COUNT | simulate FIRST COUNT | simulate seed SEED | simulate breaches LIMIT [RULE…]"
            );
            ExitCode::FAILURE
        }
    }
}

fn seeds(range: std::ops::Range<u64>) -> ExitCode {
    let begun = Instant::now();
    let count = range.end - range.start;
    let mut sum = Figures::default();
    let mut bad = 0;
    for seed in range {
        match run(seed, None) {
            Ok(figures) => sum = sum.plus(figures),
            Err(violation) => {
                bad += 1;
                println!("seed {seed}: {violation}");
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{count} seeds in {seconds:.1} s ({:.0} a minute): {bad} bad",
        count as f64 / seconds * 60.0
    );
    println!("{sum:?}");
    if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn breaches(limit: u64, names: &[String]) -> ExitCode {
    println!("| rule broken | noticed after seeds | as |\n| --- | ---: | --- |");
    let mut missed = 0;
    for caught in breach_table(limit, names) {
        missed += u32::from(caught.how.is_none());
        let how = caught.how.unwrap_or("NOT NOTICED");
        println!("| {:?} | {} | {how} |", caught.rule, caught.seeds);
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
