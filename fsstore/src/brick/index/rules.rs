//! What a generation does to the rows that the database has: directories moved, as rules.
//!
//! A generation is written in three steps:
//! 1. rows go that were replaced by what was pending when a directory moved: [`Rules::superseded`],
//!    at the keys that they have before any of its moves;
//! 2. its moves move the rows that are left;
//! 3. its own rows are written, which have their places after all of its moves.
//!
//! So each pending row is looked at once a move, and written once, however often its directory
//! moves. A directory that moves on is one move, from where it was first to where it is: its rows
//! are moved once a generation.

use std::collections::BTreeMap;

use super::overlay::{BucketId, Generation, Key};
use super::range::{KeyRange, end_of_prefix};
use super::row::Row;
use crate::name::MAX_KEY_LEN_BYTES;

/// All keys of a bucket that begin with some bytes, which end in a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prefix {
    pub bucket: BucketId,
    pub bytes: Vec<u8>,
}

impl Prefix {
    pub fn new(bucket: BucketId, text: &str) -> Self {
        Self {
            bucket,
            bytes: text.as_bytes().to_vec(),
        }
    }

    /// First bytes beyond all of its keys.
    pub fn end(&self) -> Vec<u8> {
        end_of_prefix(&self.bytes).expect("a slash has a successor")
    }

    fn rest_of<'k>(&self, bucket: BucketId, key: &'k [u8]) -> Option<&'k [u8]> {
        let rest = key.strip_prefix(&self.bytes[..])?;
        (bucket == self.bucket).then_some(rest)
    }

    fn has(&self, trace: &Trace) -> bool {
        self.rest_of(trace.bucket, &trace.key).is_some()
    }

    /// Whether a key may be below both.
    fn meets(&self, other: &Self) -> bool {
        let (one, other_bytes) = (&self.bytes, &other.bytes);
        self.bucket == other.bucket
            && (one.starts_with(other_bytes) || other_bytes.starts_with(one))
    }

    fn with(&self, rest: &[u8]) -> Vec<u8> {
        [&self.bytes[..], rest].concat()
    }

    fn range(&self) -> KeyRange {
        KeyRange {
            from: self.bytes.clone(),
            to: Some(self.end()),
        }
    }
}

/// Longest key below one prefix that is a key below another, in bytes.
fn max_key_len_bytes(from: &Prefix, to_len_bytes: usize) -> usize {
    (MAX_KEY_LEN_BYTES + from.bytes.len()).saturating_sub(to_len_bytes)
}

/// Plain rows below `from` are below `to`, which may be `from` again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    pub from: Prefix,
    pub to: Prefix,
    /// Where they were on the way: no plain row that stood there is left. None of these shares a
    /// key with `from`, nor does `to`, unless it is `from`.
    pub via: Vec<Prefix>,
}

impl Move {
    /// Longest key below `from` that is one below `to`, in bytes: what was too long on the way only
    /// is in the tree as before.
    pub fn max_key_len_bytes(&self) -> usize {
        max_key_len_bytes(&self.from, self.to.bytes.len())
    }

    fn prefixes(&self) -> impl Iterator<Item = &Prefix> {
        [&self.from, &self.to].into_iter().chain(&self.via)
    }

    fn goes_on(&self, from: &Prefix, to: &Prefix) -> bool {
        self.to == *from && (self.from == *to || !self.from.meets(to))
    }

    fn go_on(&mut self, to: Prefix) {
        let was = std::mem::replace(&mut self.to, to);
        if was != self.from && !self.via.contains(&was) {
            self.via.push(was);
        }
    }
}

/// Which row of a key: there may be one in the directory and one aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Plain,
    Escaped,
}

impl Kind {
    /// What both are; none where that is nothing.
    fn and(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, kind) | (kind, Self::Any) => Some(kind),
            (one, other) => (one == other).then_some(one),
        }
    }

    /// What it is without the other; none where that is nothing.
    fn without(self, other: Self) -> Option<Self> {
        match (self, other) {
            (_, Self::Any) => None,
            (Self::Any, Self::Plain) => Some(Self::Escaped),
            (Self::Any, Self::Escaped) => Some(Self::Plain),
            (one, other) => (one != other).then_some(one),
        }
    }
}

/// Where the row of a key may be before some moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    pub bucket: BucketId,
    pub key: Vec<u8>,
    /// Only such a row is the key's.
    kind: Kind,
}

impl Trace {
    /// Where it is.
    pub fn of(bucket: BucketId, key: &[u8]) -> Self {
        Self {
            bucket,
            key: key.to_vec(),
            kind: Kind::Any,
        }
    }

    pub fn fits(&self, row: &Row) -> bool {
        let kind = match row.flags.escaped {
            true => Kind::Escaped,
            false => Kind::Plain,
        };
        self.kind.and(kind).is_some()
    }

    /// Where it may be before one more move: the plain one first.
    fn back(self, over: &Move) -> impl Iterator<Item = Self> {
        let rest = over.to.rest_of(self.bucket, &self.key);
        let moved = rest.map(|rest| over.from.with(rest));
        let moved = moved.filter(|key| key.len() <= over.max_key_len_bytes());
        let moved = moved.and_then(|key| {
            Some(Self {
                bucket: over.from.bucket,
                key,
                kind: self.kind.and(Kind::Plain)?,
            })
        });
        // Nothing else that is plain stands where rows were moved to, or from.
        let is_swept = over.prefixes().any(|prefix| prefix.has(&self));
        let stood = match is_swept {
            true => self.kind.and(Kind::Escaped),
            false => Some(self.kind),
        };
        let stood = stood.map(|kind| Self { kind, ..self });
        moved.into_iter().chain(stood)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rules {
    moves: Vec<Move>,
    superseded: BTreeMap<BucketId, BTreeMap<Key, Kind>>,
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    /// The moves, in order.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// How many places rows are moved to.
    pub fn place_count(&self) -> usize {
        self.moves.iter().map(|it| 1 + it.via.len()).sum()
    }

    /// Rows that go before the moves.
    pub fn superseded(&self) -> &BTreeMap<BucketId, BTreeMap<Key, Kind>> {
        &self.superseded
    }

    /// Whether a bucket has rows that are moved.
    pub fn touch(&self, bucket: BucketId) -> bool {
        let mut prefixes = self.moves.iter().flat_map(Move::prefixes);
        prefixes.any(|prefix| prefix.bucket == bucket)
    }

    /// Where rows may be in the database, never at more than two places each: one if it is
    /// escaped, one if it is not.
    pub fn back(&self, traces: Vec<Trace>) -> Vec<Trace> {
        let traces = self.back_over_moves(traces);
        traces.into_iter().filter_map(|it| self.left(it)).collect()
    }

    fn back_over_moves(&self, mut traces: Vec<Trace>) -> Vec<Trace> {
        for over in self.moves.iter().rev() {
            traces = traces.into_iter().flat_map(|it| it.back(over)).collect();
        }
        traces
    }

    fn left(&self, trace: Trace) -> Option<Trace> {
        let gone = self.superseded.get(&trace.bucket);
        match gone.and_then(|keys| keys.get(&trace.key[..])) {
            Some(gone) => {
                let kind = trace.kind.without(*gone)?;
                Some(Trace { kind, ..trace })
            }
            None => Some(trace),
        }
    }

    /// The database's rows of a key go, wherever they are before the moves so far. Gives how many
    /// more such places there are now.
    fn supersede(&mut self, bucket: BucketId, key: &Key) -> usize {
        if self.moves.is_empty() {
            let of_bucket = self.superseded.entry(bucket).or_default();
            return usize::from(of_bucket.insert(Key::clone(key), Kind::Any).is_none());
        }
        let mut added = 0;
        for trace in self.back_over_moves(vec![Trace::of(bucket, key)]) {
            let of_bucket = self.superseded.entry(trace.bucket).or_default();
            match of_bucket.get_mut(&trace.key[..]) {
                Some(kind) if kind.without(trace.kind).is_none() => *kind = trace.kind,
                Some(kind) if trace.kind.without(*kind).is_some() => *kind = Kind::Any,
                Some(_) => {}
                None => {
                    of_bucket.insert(Key::from(trace.key), trace.kind);
                    added += 1;
                }
            }
        }
        added
    }

    /// Adds a move. Of a directory that moved before it makes one move with that one, unless
    /// another since had to do with where it is or goes.
    fn push(&mut self, from: Prefix, to: Prefix) {
        for before in self.moves.iter_mut().rev() {
            if before.goes_on(&from, &to) {
                return before.go_on(to);
            }
            let mut prefixes = before.prefixes();
            if prefixes.any(|prefix| prefix.meets(&from) || prefix.meets(&to)) {
                break;
            }
        }
        let via = Vec::new();
        self.moves.push(Move { from, to, via });
    }
}

impl Generation {
    /// Moves all plain rows below one prefix to another, below which no plain row is left. Gives
    /// whether pending ones went, since their keys became too long.
    pub fn move_rows(&mut self, from: Prefix, to: Prefix) -> bool {
        let mut are_too_long = false;
        let stood = self.take_range(to.bucket, &to.range());
        let moving = self.take_range(from.bucket, &from.range());
        let max_len_bytes = max_key_len_bytes(&from, to.bytes.len());
        for (key, pending) in stood {
            self.row_count += self.rules.supersede(to.bucket, &key);
            if let Some(row) = pending.filter(|row| row.flags.escaped) {
                self.put(to.bucket, key, Some(row));
            }
        }
        for (key, pending) in moving {
            self.row_count += self.rules.supersede(from.bucket, &key);
            match pending {
                Some(row) if row.flags.escaped => self.put(from.bucket, key, Some(row)),
                Some(row) if key.len() <= max_len_bytes => {
                    let key = to.with(&key[from.bytes.len()..]);
                    self.put(to.bucket, Key::from(key), Some(row));
                }
                Some(_) => are_too_long = true,
                None => {}
            }
        }
        self.rules.push(from, to);
        are_too_long
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Move, Prefix, Rules};

    fn rules(moves: &[(&str, &str)]) -> Vec<Move> {
        let mut rules = Rules::default();
        for (from, to) in moves {
            rules.push(Prefix::new(1, from), Prefix::new(1, to));
        }
        rules.moves
    }

    fn words(moves: &[(&str, &str)]) -> Vec<String> {
        let text = |prefix: &Prefix| String::from_utf8(prefix.bytes.clone()).unwrap();
        let moves = rules(moves).into_iter();
        let via = |it: &Move| it.via.iter().map(text).collect::<Vec<_>>().join(" ");
        moves
            .map(|it| format!("{} > {} > {}", text(&it.from), via(&it), text(&it.to)))
            .collect()
    }

    #[test]
    fn a_directory_that_moves_on_is_one_move() {
        assert_eq!(
            words(&[("a/", "b/"), ("b/", "c/"), ("c/", "d/")]),
            ["a/ > b/ c/ > d/"]
        );
        let there_and_back = [("a/", "b/"), ("b/", "a/")].repeat(50);
        assert_eq!(words(&there_and_back), ["a/ > b/ > a/"]);
        assert_eq!(words(&there_and_back[..9]), ["a/ > b/ > b/"]);
    }

    #[test]
    fn others_that_move_meanwhile_do_not_matter_unless_they_meet() {
        let both = [("a/", "b/"), ("x/", "y/"), ("b/", "a/"), ("y/", "x/")];
        assert_eq!(words(&both), ["a/ > b/ > a/", "x/ > y/ > x/"]);
        let within = [("a/", "b/"), ("b/x/", "y/"), ("b/", "a/")];
        assert_eq!(words(&within), ["a/ >  > b/", "b/x/ >  > y/", "b/ >  > a/"]);
        // `a` was taken by another, which moved on.
        let taken = [("a/", "b/"), ("c/", "a/"), ("b/", "d/"), ("a/", "e/")];
        assert_eq!(words(&taken), ["a/ > b/ > d/", "c/ > a/ > e/"]);
    }

    #[test]
    fn a_directory_that_moves_to_below_or_above_where_it_was_is_moved_twice() {
        let below = [("a/", "b/"), ("b/", "a/b/")];
        assert_eq!(words(&below), ["a/ >  > b/", "b/ >  > a/b/"]);
        let above = [("a/b/", "c/"), ("c/", "a/")];
        assert_eq!(words(&above), ["a/b/ >  > c/", "c/ >  > a/"]);
    }

    #[test]
    fn kinds_are_those_of_sets() {
        let kinds = [Kind::Any, Kind::Plain, Kind::Escaped];
        let bits = |kind: Option<Kind>| match kind {
            None => 0,
            Some(Kind::Plain) => 1,
            Some(Kind::Escaped) => 2,
            Some(Kind::Any) => 3,
        };
        for one in kinds {
            for other in kinds {
                let (a, b) = (bits(Some(one)), bits(Some(other)));
                assert_eq!(bits(one.and(other)), a & b);
                assert_eq!(bits(one.without(other)), a & !b);
            }
        }
    }
}
