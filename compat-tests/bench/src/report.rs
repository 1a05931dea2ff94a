//! Medians, spreads and ratios; as JSON and as a table.

use std::fmt::Write as _;

use serde::Serialize;

use crate::load::Block;

/// How a case's figure is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// MiB a second; more is better.
    MibPerS,
    /// Operations a second; more is better.
    OpsPerS,
    /// Median latency in milliseconds; less is better.
    LatencyMs,
    /// MiB of resident memory; less is better.
    ResidentMib,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::MibPerS => "MiB/s",
            Self::OpsPerS => "op/s",
            Self::LatencyMs => "ms",
            Self::ResidentMib => "MiB",
        }
    }

    fn figure(self, block: &Block) -> f64 {
        match self {
            Self::MibPerS => block.mib_per_s(),
            Self::OpsPerS => block.ops_per_s(),
            Self::LatencyMs => f64::from(percentile(&block.latencies_us, 50)) / 1000.0,
            Self::ResidentMib => block.bytes as f64 / (1024.0 * 1024.0),
        }
    }
}

/// One subject in one case over all rounds.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The case.
    pub case: String,
    /// Who was measured.
    pub subject: String,
    /// Unit of the figures.
    pub unit: Unit,
    /// One figure a round.
    pub rounds: Vec<f64>,
    /// Median of the rounds.
    pub median: f64,
    /// Latencies of all rounds together in microseconds: p10, p50, p90, p99.
    pub latency_us: [u32; 4],
    /// Operations of all rounds.
    pub ops: u64,
}

impl Row {
    /// Sums the rounds up.
    pub fn new(case: &str, subject: &str, unit: Unit, blocks: &[Block]) -> Self {
        let rounds: Vec<f64> = blocks.iter().map(|block| unit.figure(block)).collect();
        let all: Vec<u32> = blocks
            .iter()
            .flat_map(|block| block.latencies_us.iter().copied())
            .collect();
        Self {
            case: case.to_owned(),
            subject: subject.to_owned(),
            unit,
            median: median(&rounds),
            rounds,
            latency_us: [10, 50, 90, 99].map(|p| percentile(&all, p)),
            ops: blocks.iter().map(|block| block.ops).sum(),
        }
    }
}

/// A target of the project and what was measured.
#[derive(Debug, Serialize)]
pub struct Target {
    /// What is asked.
    pub what: String,
    /// The bound.
    pub bound: f64,
    /// True where the figure must not be below the bound, false where not above.
    pub at_least: bool,
    /// What was measured.
    pub measured: f64,
}

impl Target {
    fn is_met(&self) -> bool {
        if self.at_least {
            self.measured >= self.bound
        } else {
            self.measured <= self.bound
        }
    }
}

/// Everything one run found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Machine, command, versions.
    pub setting: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// The targets.
    pub targets: Vec<Target>,
    /// What was left out or needs saying.
    pub notes: Vec<String>,
}

impl Report {
    /// Adds a row and shows it.
    pub fn add(&mut self, row: Row) {
        eprintln!(
            "{:34} {:22} {:10.1} {}",
            row.case,
            row.subject,
            row.median,
            row.unit.name()
        );
        self.rows.push(row);
    }

    /// The median of a row.
    pub fn median_of(&self, case: &str, subject: &str) -> Option<f64> {
        self.row(case, subject).map(|row| row.median)
    }

    fn row(&self, case: &str, subject: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.case == case && row.subject == subject)
    }

    /// The median over the rounds of one subject's figure as a share of another's in the same round.
    pub fn ratio(&self, case: &str, subject: &str, other: &str) -> Option<f64> {
        let (one, two) = (self.row(case, subject)?, self.row(case, other)?);
        let ratios: Vec<f64> = one
            .rounds
            .iter()
            .zip(&two.rounds)
            .map(|(a, b)| a / b.max(1e-9))
            .collect();
        Some(median(&ratios))
    }

    /// States a target if its figure is known.
    pub fn target(&mut self, what: &str, at_least: bool, bound: f64, measured: Option<f64>) {
        match measured {
            Some(measured) => self.targets.push(Target {
                what: what.to_owned(),
                bound,
                at_least,
                measured,
            }),
            None => self.notes.push(format!("not measured: {what}")),
        }
    }

    /// The tables of docs/performance.md.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for line in &self.setting {
            let _ = writeln!(text, "- {line}");
        }
        text.push_str(
            "\n| case | subject | median of rounds | lowest – highest | p10 | p50 | p90 | p99 (ms) |\n\
             | --- | --- | ---: | --- | ---: | ---: | ---: | ---: |\n",
        );
        for row in &self.rows {
            let low = row.rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let high = row.rounds.iter().copied().fold(0.0, f64::max);
            let latencies = row.latency_us.map(|us| match us {
                0 => String::new(), // not taken one by one
                us => format!("{:.2}", f64::from(us) / 1000.0),
            });
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} {} | {low:.1} – {high:.1} | {} |",
                row.case,
                row.subject,
                row.median,
                row.unit.name(),
                latencies.join(" | "),
            );
        }
        text.push_str("\n| target | bound | measured | met |\n| --- | ---: | ---: | --- |\n");
        for target in &self.targets {
            let sign = if target.at_least { "≥" } else { "≤" };
            let met = if target.is_met() { "yes" } else { "**no**" };
            let _ = writeln!(
                text,
                "| {} | {sign} {:.2} | {:.2} | {met} |",
                target.what, target.bound, target.measured
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

fn percentile(values: &[u32], percent: usize) -> u32 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len().saturating_sub(1)) * percent / 100;
    sorted.get(rank).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u32> = (1..=100).rev().collect();
        assert_eq!(percentile(&values, 10), 10);
        assert_eq!(percentile(&values, 99), 99);
        assert_eq!(percentile(&[], 50), 0);
    }

    #[test]
    fn ratio_pairs_rounds() {
        let block = |ops| Block {
            ops,
            seconds: 1.0,
            ..Block::default()
        };
        let mut report = Report::default();
        report.add(Row::new(
            "c",
            "a",
            Unit::OpsPerS,
            &[block(1), block(8), block(3)],
        ));
        report.add(Row::new(
            "c",
            "b",
            Unit::OpsPerS,
            &[block(2), block(4), block(3)],
        ));
        assert_eq!(report.ratio("c", "a", "b"), Some(1.0));
        assert_eq!(report.ratio("c", "a", "none"), None);
    }
}
