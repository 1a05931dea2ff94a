//! Listings of the whole volume: of each group one brick in sync is asked, and only its word
//! counts. A page that does not cover every group in one configuration is asked for again.

use std::collections::HashSet;
use std::sync::Arc;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::merge::{BrickPage, merge, unchanged};

use super::member::Member;
use super::shared::{Shared, group_by, is_fault};
use crate::brick::disk::Disk;
use crate::brick::sink::off_thread;
use crate::error::{Result, StoreError};
use crate::name::BucketName;
use crate::object::Locator;
use crate::volume::{BucketInfo, ListEntry, ListPage, ListQuery, MAX_PAGE};

/// How often a page is asked for again while bricks come and go.
const MAX_ROUNDS: usize = 50;

/// What a listing tells of a key.
#[derive(Debug, Clone)]
enum Entry {
    Object(ListEntry),
    Prefix,
}

impl<D: Disk> Shared<D> {
    /// For each group the brick that is asked: as few bricks as will do.
    pub(super) async fn sources(&self) -> Result<Vec<BrickId>> {
        let groups: Vec<GroupId> = (0..self.grouping.count()).map(GroupId).collect();
        for group in &groups {
            self.reader(*group).await?;
        }
        let members = self.all_members();
        let in_sync: Vec<u64> = groups
            .iter()
            .map(|group| self.in_sync_bits(*group))
            .collect();
        let mut sources: Vec<Option<BrickId>> = vec![None; groups.len()];
        let mut left: HashSet<usize> = (0..members.len())
            .filter(|seat| !members[*seat].has_failed())
            .collect();
        while sources.iter().any(Option::is_none) {
            let gains = |seat: &usize| {
                let lacking = sources.iter().zip(&in_sync);
                lacking
                    .filter(|(source, bits)| source.is_none() && **bits & 1 << (seat & 63) != 0)
                    .count()
            };
            let best = left
                .iter()
                .copied()
                .max_by_key(|seat| (gains(seat), usize::MAX - seat));
            let Some(best) = best.filter(|seat| gains(seat) > 0) else {
                return Err(StoreError::Busy("no brick of a group"));
            };
            left.remove(&best);
            for (source, bits) in sources.iter_mut().zip(&in_sync) {
                if source.is_none() && bits & 1 << (best & 63) != 0 {
                    *source = Some(members[best].id);
                }
            }
        }
        Ok(sources.into_iter().flatten().collect())
    }

    /// Asks again while configurations change.
    async fn steadily<T, F>(&self, ask: impl Fn(Arc<Vec<BrickId>>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        for _ in 0..MAX_ROUNDS {
            let before = self.epochs();
            let sources = Arc::new(self.sources().await?);
            match ask(sources).await {
                Err(StoreError::Busy(_)) => {}
                Err(e) => return Err(e),
                Ok(answer) if unchanged(&before, &self.epochs()).is_ok() => return Ok(answer),
                Ok(_) => {}
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Err(StoreError::Busy("bricks come and go"))
    }

    fn sourced(&self, sources: &[BrickId]) -> Vec<Arc<Member<D>>> {
        let mut members = self.all_members();
        members.retain(|member| sources.contains(&member.id));
        members
    }

    pub(super) async fn list(&self, bucket: &BucketName, query: &ListQuery) -> Result<ListPage> {
        self.look_bucket(bucket).await?;
        let mut query = query.clone();
        query.limit = query.limit.min(MAX_PAGE);
        if query.limit == 0 {
            return Ok(ListPage::default());
        }
        let query = &query;
        self.steadily(|sources| async move {
            let mut pages = Vec::new();
            for member in self.sourced(&sources) {
                match member.inner.list_objects(bucket, query).await {
                    Ok(page) => pages.push(self.page_of(bucket, &member, page, &sources)),
                    Err(error) if is_fault(&error) => {
                        self.report(member.id, error);
                        return Err(StoreError::Busy("a brick failed"));
                    }
                    Err(error) => return Err(error),
                }
            }
            count_prefixes_once(&mut pages);
            let merged = merge(&pages, &sources, query.limit)
                .map_err(|_| StoreError::Busy("a brick gave no page"))?;
            let mut page = ListPage {
                next: merged.next,
                ..ListPage::default()
            };
            for (key, entry) in merged.entries {
                match entry {
                    Entry::Object(entry) => page.objects.push(entry),
                    Entry::Prefix => page.prefixes.push(key),
                }
            }
            Ok(page)
        })
        .await
    }

    fn page_of(
        &self,
        bucket: &BucketName,
        member: &Member<D>,
        page: ListPage,
        sources: &[BrickId],
    ) -> BrickPage<String, Entry> {
        let own = sources.iter().position(|source| *source == member.id);
        let own = GroupId(own.unwrap_or(0) as u32);
        let objects = page.objects.into_iter().map(|entry| {
            let at = Locator::new(bucket.clone(), entry.key.clone());
            let key = entry.key.as_str().to_owned();
            (key, self.group_of(&at), Entry::Object(entry))
        });
        // What is rolled up is of many groups; the brick is in sync in those it has objects of.
        let prefixes = page.prefixes.into_iter();
        let prefixes = prefixes.map(|prefix| (prefix, own, Entry::Prefix));
        let mut entries: Vec<_> = objects.chain(prefixes).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        BrickPage {
            brick: member.id,
            entries,
            complete_to: page.next,
        }
    }

    pub(super) async fn list_buckets(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<BucketInfo>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.steadily(|sources| async move {
            let (mut found, mut after) = (Vec::new(), after.map(str::to_owned));
            loop {
                let mut pages = Vec::new();
                for member in self.sourced(&sources) {
                    let (prefix, from, brick) = (prefix.to_owned(), after.clone(), member.id);
                    let listed = off_thread(move || {
                        let inner = &member.inner;
                        inner.list_buckets_now(&prefix, from.as_deref(), limit)
                    });
                    let listed = match listed.await {
                        Err(error) if is_fault(&error) => {
                            self.report(brick, error);
                            return Err(StoreError::Busy("a brick failed"));
                        }
                        other => other?,
                    };
                    let last = listed.last().map(|info| info.name.as_str().to_owned());
                    let complete_to = last.filter(|_| listed.len() >= limit);
                    let entries = listed.into_iter().map(|info| {
                        let group = self.group_of_bucket(&info.name);
                        (info.name.as_str().to_owned(), group, info)
                    });
                    pages.push(BrickPage {
                        brick,
                        entries: entries.collect(),
                        complete_to,
                    });
                }
                let merged = merge(&pages, &sources, limit - found.len())
                    .map_err(|_| StoreError::Busy("a brick gave no page"))?;
                found.extend(merged.entries.into_iter().map(|(_, info)| info));
                match merged.next {
                    Some(next) if found.len() < limit => after = Some(next),
                    _ => return Ok(found),
                }
            }
        })
        .await
    }

    /// The group of a place, for a thread that has no more of this.
    pub(super) fn grouper(&self) -> impl Fn(&Locator) -> GroupId + Send + 'static + use<D> {
        let grouping = self.grouping;
        move |at| group_by(&grouping, at)
    }
}

/// Leaves each common prefix to one brick, for it is shown once.
fn count_prefixes_once(pages: &mut [BrickPage<String, Entry>]) {
    let mut seen = HashSet::new();
    for page in pages {
        page.entries.retain(|(key, _, entry)| {
            matches!(entry, Entry::Object(_)) || seen.insert(key.clone())
        });
    }
}
