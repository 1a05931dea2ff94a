//! One listing out of many bricks' pages: complete, or an error; never a short answer with success.
//!
//! Of each group one brick in sync is asked for its names, and only its word counts. The merge
//! refuses where that brick gave no page; it ends where the first of the pages used ends; and the
//! epochs of all groups, read before and after, say whether who was asked was still in sync.

use crate::group::GroupId;
use crate::layout::BrickId;

/// What one brick has, in order of keys, after the key that the listing goes on from.
#[derive(Debug, Clone)]
pub struct BrickPage<K, E> {
    /// Whose.
    pub brick: BrickId,
    /// Keys, each with its group and whatever a listing tells of it.
    pub entries: Vec<(K, GroupId, E)>,
    /// Up to here nothing is left out, this key included; none where it goes to the end.
    pub complete_to: Option<K>,
}

/// A page of the whole volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged<K, E> {
    /// In order of keys.
    pub entries: Vec<(K, E)>,
    /// Where to go on after; none at the end.
    pub next: Option<K>,
}

/// Why there is no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// The brick that answers for this group gave no page.
    NoPage {
        /// The group.
        group: GroupId,
        /// The brick.
        brick: BrickId,
    },
    /// The group's configuration changed meanwhile: ask again.
    Changed {
        /// The group.
        group: GroupId,
    },
}

/// Merges pages, at most `limit` entries (not 0). `sources` names for each group the brick that
/// answers for it.
pub fn merge<K: Ord + Clone, E: Clone>(
    pages: &[BrickPage<K, E>],
    sources: &[BrickId],
    limit: usize,
) -> Result<Merged<K, E>, Incomplete> {
    for (group, brick) in (0..).map(GroupId).zip(sources.iter().copied()) {
        if !pages.iter().any(|page| page.brick == brick) {
            return Err(Incomplete::NoPage { group, brick });
        }
    }
    let is_used = |page: &&BrickPage<K, E>| sources.contains(&page.brick);
    let ends = pages.iter().filter(is_used);
    let end = ends.filter_map(|page| page.complete_to.as_ref()).min();
    let mut entries: Vec<(K, E)> = Vec::new();
    for page in pages {
        let counts = page.entries.iter().filter(|(key, group, _)| {
            sources.get(group.0 as usize) == Some(&page.brick) && end.is_none_or(|end| key <= end)
        });
        entries.extend(counts.map(|(key, _, entry)| (key.clone(), entry.clone())));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let is_cut = entries.len() > limit;
    entries.truncate(limit);
    let last = entries.last().map(|(key, _)| key.clone());
    let next = if is_cut { last } else { end.cloned() };
    Ok(Merged { entries, next })
}

/// Refuses where a group's epoch is another than before the bricks were asked.
pub fn unchanged(before: &[u64], after: &[u64]) -> Result<(), Incomplete> {
    let mut groups = (0..).map(GroupId).zip(before.iter().zip(after));
    match groups.find(|(_, (before, after))| before != after) {
        Some((group, _)) => Err(Incomplete::Changed { group }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{BrickPage, Incomplete, merge, unchanged};
    use crate::group::GroupId;
    use crate::layout::BrickId;

    const GROUPS: u32 = 8;

    #[test]
    fn a_brick_that_does_not_answer_is_no_short_listing() {
        let page = BrickPage {
            brick: BrickId(0),
            entries: vec![(1, GroupId(0), ())],
            complete_to: None,
        };
        let sources = [BrickId(0), BrickId(1)];
        let refusal = Incomplete::NoPage {
            group: GroupId(1),
            brick: BrickId(1),
        };
        assert_eq!(merge(&[page], &sources, 10), Err(refusal));
    }

    #[test]
    fn a_group_that_changed_meanwhile_is_asked_again() {
        let group = GroupId(1);
        assert_eq!(
            unchanged(&[4, 7], &[4, 8]),
            Err(Incomplete::Changed { group })
        );
        assert_eq!(unchanged(&[4, 7], &[4, 7]), Ok(()));
    }

    proptest! {
        /// Page by page, all names and no others come, whatever bricks have besides.
        #[test]
        fn pages_merge_to_what_there_is(
            names in proptest::collection::btree_map(any::<u16>(), any::<u8>(), 0..60),
            stale in proptest::collection::btree_map(any::<u16>(), any::<u8>(), 0..20),
            copies in proptest::collection::vec(0u32..3, GROUPS as usize),
            page_len in 1usize..9,
            limit in 1usize..12,
        ) {
            let group = |name: &u16| GroupId(u32::from(*name) % GROUPS);
            let sources: Vec<BrickId> = copies.iter().map(|brick| BrickId(*brick)).collect();
            let mut listed: BTreeMap<u16, u8> = BTreeMap::new();
            let mut after = None;
            loop {
                let page = |brick: u32| {
                    let is_source = |name: &u16| sources[group(name).0 as usize].0 == brick;
                    // What a brick has of groups it does not answer for may be old.
                    let own = names.iter().filter(|(name, _)| is_source(name));
                    let old = stale.iter().filter(|(name, _)| !is_source(name));
                    let all: BTreeMap<u16, u8> = own.chain(old).map(|(k, v)| (*k, *v)).collect();
                    let rest = all.into_iter().filter(|(name, _)| after.is_none_or(|after| *name > after));
                    let rest: Vec<(u16, u8)> = rest.collect();
                    let is_all = rest.len() <= page_len;
                    let taken = rest.into_iter().take(page_len);
                    let entries: Vec<_> = taken.map(|(k, v)| (k, group(&k), v)).collect();
                    let complete_to = entries.last().map(|(key, _, _)| *key).filter(|_| !is_all);
                    BrickPage { brick: BrickId(brick), entries, complete_to }
                };
                let pages: Vec<_> = (0..3).map(page).collect();
                let merged = merge(&pages, &sources, limit).unwrap();
                listed.extend(merged.entries);
                match merged.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            prop_assert_eq!(listed, names);
        }
    }
}
