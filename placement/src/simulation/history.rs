//! What clients asked and were told, and whether some order of it makes sense: a search for a
//! linearization (Wing and Gong 1993, with Lowe's memory of states seen, 2017), over two names
//! at a time, since a rename joins two.

use std::collections::HashSet;
use std::fmt::{self, Display};

/// A name: names 2n and 2n + 1 are renamed to each other.
pub type Name = u8;
/// What a file holds.
pub type Value = u64;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// What is there?
    Read(Name),
    /// Put this there.
    Put(Name, Value),
    /// Put this there if it holds that, or is absent.
    PutIf(Name, Option<Value>, Value),
    /// Remove it, if there is one.
    Remove(Name),
    /// Rename it, replacing what stands there.
    Move(Name, Name),
    /// Add to it, if it is there.
    Extend(Name, Value),
}

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// What was read.
    Found(Option<Value>),
    /// It is done.
    Done,
    /// Its condition did not hold.
    Refused,
    /// Nothing: it may be done or not, at any time after it was asked.
    Nothing,
}

/// One request. Times are numbers of events, and no two are equal.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What was asked.
    pub ask: Ask,
    /// When.
    pub asked: u64,
    /// What was told.
    pub told: Told,
    /// When; u64::MAX for nothing.
    pub answered: u64,
}

/// The two names' contents.
type State = [Option<Value>; 2];

/// What a file holds after it was extended.
pub fn extended(old: Value, by: Value) -> Value {
    old.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ by
}

impl Ask {
    /// The pair of names that it concerns.
    pub fn pair(self) -> usize {
        usize::from(self.name() / 2)
    }

    /// Its name, or its first.
    pub fn name(self) -> Name {
        match self {
            Self::Read(name)
            | Self::Put(name, _)
            | Self::PutIf(name, _, _)
            | Self::Remove(name)
            | Self::Move(name, _)
            | Self::Extend(name, _) => name,
        }
    }

    /// What happens if it happens in `state`: the state after it, and what is told.
    fn applied(self, mut state: State) -> (State, Told) {
        let at = usize::from(self.name() % 2);
        let told = match self {
            Self::Read(_) => Told::Found(state[at]),
            Self::Put(_, value) => {
                state[at] = Some(value);
                Told::Done
            }
            Self::PutIf(_, expected, value) if state[at] == expected => {
                state[at] = Some(value);
                Told::Done
            }
            Self::Remove(_) if state[at].is_some() => {
                state[at] = None;
                Told::Done
            }
            Self::Move(_, to) if state[at].is_some() => {
                state[usize::from(to % 2)] = state[at].take();
                Told::Done
            }
            Self::Extend(_, by) if state[at].is_some() => {
                state[at] = state[at].map(|old| extended(old, by));
                Told::Done
            }
            _ => Told::Refused,
        };
        (state, told)
    }
}

/// Most requests of one pair in a history.
pub const MAX_ENTRIES: usize = 128;
/// Most states looked at; a search that needs more is given up.
const MAX_STATES: usize = 60_000;

/// What became of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// There is an order that makes sense.
    Found,
    /// There is none.
    Missing,
    /// The search was given up.
    TooHard,
}

/// Looks for an order of one pair's history that makes sense.
pub fn linearize(entries: &[Entry]) -> Order {
    assert!(entries.len() <= MAX_ENTRIES);
    let mut seen = HashSet::new();
    let mut stack = vec![(0u128, State::default())];
    let complete = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| entry.told != Told::Nothing)
        .fold(0u128, |mask, (index, _)| mask | 1 << index);
    while let Some((done, state)) = stack.pop() {
        if done & complete == complete {
            return Order::Found;
        }
        if seen.len() > MAX_STATES {
            return Order::TooHard;
        }
        let open = |index: &usize| done & (1 << index) == 0;
        let first_answer = (0..entries.len())
            .filter(open)
            .map(|index| entries[index].answered);
        let Some(deadline) = first_answer.min() else {
            continue;
        };
        let candidates = (0..entries.len()).filter(open);
        let candidates = candidates.filter(|index| entries[*index].asked < deadline);
        let mut next = Vec::new();
        for index in candidates {
            let entry = &entries[index];
            let (after, told) = entry.ask.applied(state);
            let is_lost = entry.told == Told::Nothing;
            // What was not told about and changes nothing need not have happened.
            let fits = if is_lost {
                after != state
            } else {
                told == entry.told
            };
            let step = (done | 1 << index, after);
            if fits && seen.insert(step) {
                next.push((is_lost, step));
            }
        }
        // The last pushed is tried first: what was answered, before what may never have happened.
        next.sort_by_key(|(is_lost, _)| !is_lost);
        stack.extend(next.into_iter().map(|(_, step)| step));
    }
    Order::Missing
}

impl Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ask,
            asked,
            told,
            answered,
        } = self;
        write!(f, "{asked:>6} {ask:?} -> {told:?} {answered}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Ask, Entry, Order, Told, linearize};

    fn entry(asked: u64, answered: u64, ask: Ask, told: Told) -> Entry {
        Entry {
            ask,
            asked,
            told,
            answered,
        }
    }

    const NEVER: u64 = u64::MAX;

    #[test]
    fn a_stale_read_makes_no_sense() {
        let put = entry(1, 2, Ask::Put(0, 7), Told::Done);
        let stale = entry(3, 4, Ask::Read(0), Told::Found(None));
        let true_one = entry(3, 4, Ask::Read(0), Told::Found(Some(7)));
        assert_eq!(linearize(&[put, stale]), Order::Missing);
        assert_eq!(linearize(&[put, true_one]), Order::Found);
        let beside = entry(1, 4, Ask::Read(0), Told::Found(None));
        assert_eq!(linearize(&[put, beside]), Order::Found);
    }

    #[test]
    fn what_was_seen_cannot_be_unseen() {
        let lost = entry(1, NEVER, Ask::Put(0, 7), Told::Nothing);
        let with = |at, value| entry(at, at + 1, Ask::Read(0), Told::Found(value));
        assert_eq!(
            linearize(&[lost, with(2, None), with(4, Some(7))]),
            Order::Found
        );
        let unseen = [lost, with(2, Some(7)), with(4, None)];
        assert_eq!(linearize(&unseen), Order::Missing);
    }

    #[test]
    fn one_of_two_creators_wins() {
        let create = |at, value, told| entry(at, 10 + at, Ask::PutIf(1, None, value), told);
        let won = create(1, 5, Told::Done);
        assert_eq!(linearize(&[won, create(2, 6, Told::Refused)]), Order::Found);
        assert_eq!(linearize(&[won, create(2, 6, Told::Done)]), Order::Missing);
    }

    #[test]
    fn a_rename_moves_and_an_extension_counts_once() {
        let put = entry(1, 2, Ask::Put(0, 7), Told::Done);
        let moved = entry(3, 4, Ask::Move(0, 1), Told::Done);
        let both = entry(5, 6, Ask::Read(0), Told::Found(Some(7)));
        assert_eq!(linearize(&[put, moved, both]), Order::Missing);
        let extend = entry(3, 4, Ask::Extend(0, 9), Told::Done);
        let once = super::extended(7, 9);
        let read = |value| entry(5, 6, Ask::Read(0), Told::Found(Some(value)));
        assert_eq!(linearize(&[put, extend, read(once)]), Order::Found);
        let twice = super::extended(once, 9);
        assert_eq!(linearize(&[put, extend, read(twice)]), Order::Missing);
    }
}
