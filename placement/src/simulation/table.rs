//! The table of breaches: for each rule, how soon the simulator notices that it is broken.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::outcome::Violation;
use super::run;
use crate::replica::rules::{RULES, Rule};

/// How a breach was noticed.
#[derive(Debug, Clone)]
pub struct Caught {
    /// The rule broken.
    pub rule: Rule,
    /// Seeds run until it was noticed, or all of them.
    pub seeds: u64,
    /// How it was noticed, in a word; none where it was not.
    pub how: Option<&'static str>,
}

/// Runs seeds with a rule broken until one notices, at most `limit`.
pub fn seeds_until_caught(rule: Rule, limit: u64) -> Caught {
    for seed in 0..limit {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, Some(rule))));
        let how = match outcome {
            Ok(Ok(_)) => continue,
            Ok(Err(violation)) => word(&violation),
            Err(_) => "assertion",
        };
        let seeds = seed + 1;
        return Caught {
            rule,
            seeds,
            how: Some(how),
        };
    }
    Caught {
        rule,
        seeds: limit,
        how: None,
    }
}

/// The table of some rules, or of all where none are named. Assertions that a breach runs into are
/// caught and stay silent.
pub fn breach_table(limit: u64, names: &[String]) -> Vec<Caught> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let is_meant = |rule: &Rule| names.is_empty() || names.contains(&format!("{rule:?}"));
    let rules = RULES.into_iter().filter(is_meant);
    let table = rules.map(|rule| seeds_until_caught(rule, limit)).collect();
    std::panic::set_hook(hook);
    table
}

fn word(violation: &Violation) -> &'static str {
    match violation {
        Violation::NotLinearizable(_) => "not linearizable",
        Violation::Forked { .. } => "forked",
        Violation::TooFewCopies { .. } => "too few copies",
        Violation::NotInSync { .. } => "not in sync",
        Violation::StaleReader { .. } => "stale reader",
        Violation::Alarmed(_) => "alarm",
        Violation::CopiesDiffer(_) => "copies differ",
        Violation::NoRest(_) => "no rest",
    }
}
