//! A brick's names by group, read from its tree: whoever is compared asks for its group's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use placement::group::{GroupId, Grouping};

use super::super::files::nodes;
use super::super::kinds::Name;
use super::super::member::Member;
use super::super::shared::{group_by, group_by_bucket};
use crate::brick::disk::Disk;
use crate::brick::sink::off_thread;
use crate::error::Result;
use crate::object::Locator;

/// Most names in memory at once; where a brick has more, its groups are taken by ranges.
const MAX_NAMES: usize = 1 << 20;
/// Fewest groups of a range, whatever they hold.
const MIN_GROUPS: u32 = 64;
/// Groups that are compared at once share a walk: for so long those are waited for that come.
const GATHERING: Duration = Duration::from_millis(20);

/// The names of a range of groups on a brick, as they were after an instant.
#[derive(Debug)]
pub struct Census {
    groups: Range<u32>,
    since: Instant,
    names: BTreeMap<GroupId, Arc<BTreeSet<Name>>>,
}

impl Census {
    /// When it was begun.
    pub fn since(&self) -> Instant {
        self.since
    }
}

/// A brick's names of a group, no older than an instant.
pub async fn names_of<D: Disk>(
    member: &Arc<Member<D>>,
    grouping: Grouping,
    group: GroupId,
    not_before: Instant,
) -> Result<Arc<BTreeSet<Name>>> {
    let mut census = member.census.lock().await;
    let is_good = |found: &&Census| found.groups.contains(&group.0) && found.since >= not_before;
    if census.as_ref().filter(is_good).is_none() {
        *census = None;
        tokio::time::sleep(GATHERING).await;
        let counting = Arc::clone(member);
        let counted = off_thread(move || count(&counting, grouping, group, MAX_NAMES)).await?;
        member.set_census_width(counted.groups.len() as u32);
        *census = Some(counted);
    }
    let names = census.as_ref().and_then(|census| census.names.get(&group));
    Ok(names.cloned().unwrap_or_default())
}

/// Names on their way into a census.
struct Counting {
    groups: Range<u32>,
    wanted: u32,
    count: usize,
    max_names: usize,
    names: BTreeMap<GroupId, BTreeSet<Name>>,
}

impl Counting {
    fn add(&mut self, group: GroupId, name: Name) {
        if !self.groups.contains(&group.0) || !self.names.entry(group).or_default().insert(name) {
            return;
        }
        self.count += 1;
        while self.count > self.max_names && self.groups.len() as u32 > MIN_GROUPS {
            let mid = self.groups.start + self.groups.len() as u32 / 2;
            match self.wanted < mid {
                true => self.groups.end = mid,
                false => self.groups.start = mid,
            }
            let groups = self.groups.clone();
            self.names.retain(|group, _| groups.contains(&group.0));
            self.count = self.names.values().map(BTreeSet::len).sum();
        }
    }
}

/// Walks the tree; of the range around a group that fits into memory.
fn count<D: Disk>(
    member: &Member<D>,
    grouping: Grouping,
    wanted: GroupId,
    max_names: usize,
) -> Result<Census> {
    let since = Instant::now();
    let mut counting = Counting {
        groups: 0..grouping.count(),
        wanted: wanted.0,
        count: 0,
        max_names,
        names: BTreeMap::new(),
    };
    for info in member.inner.list_buckets_now("", None, usize::MAX)? {
        let bucket = info.name;
        let of_bucket = group_by_bucket(&grouping, &bucket);
        counting.add(of_bucket, Name::Bucket(bucket.clone()));
        member.inner.each_key(&bucket, &mut |key| {
            let at = Locator::new(bucket.clone(), key);
            counting.add(group_by(&grouping, &at), Name::object(&at));
        })?;
        nodes::names_below(&member.inner, &bucket, &mut |at, name| {
            counting.add(group_by(&grouping, &at), name);
        })?;
        member.inner.each_upload(&bucket, |info| {
            let at = Locator::new(bucket.clone(), info.key);
            counting.add(group_by(&grouping, &at), Name::upload(&at, &info.id));
        })?;
    }
    let names = counting.names.into_iter();
    Ok(Census {
        groups: counting.groups,
        since,
        names: names
            .map(|(group, names)| (group, Arc::new(names)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Counting, GroupId, MIN_GROUPS, Name};
    use crate::name::BucketName;

    #[test]
    fn names_that_are_too_many_are_those_of_fewer_groups() {
        let mut counting = Counting {
            groups: 0..1024,
            wanted: 700,
            count: 0,
            max_names: 100,
            names: Default::default(),
        };
        for n in 0..2048_u32 {
            let name = BucketName::parse(&format!("bucket-{n}")).unwrap();
            counting.add(GroupId(n % 1024), Name::Bucket(name));
        }
        assert_eq!(counting.groups, 640..704);
        assert_eq!(counting.groups.len() as u32, MIN_GROUPS);
        let groups: Vec<u32> = counting.names.keys().map(|group| group.0).collect();
        assert_eq!(groups, (640..704).collect::<Vec<_>>());
        assert!(counting.names.values().all(|names| names.len() == 2));
    }
}
