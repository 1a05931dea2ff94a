//! Records on their way into the bricks' logs. Bytes that a brick lacks are fetched before, beside
//! its logging thread: others' records do not wait for them.

use std::sync::Arc;
use std::time::Instant;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{Event, OpId, Record};

use super::super::kinds::Kept;
use super::super::logger::{LogJob, Logged};
use super::super::member::{CopyError, Copying, Member};
use super::super::shared::is_fault;
use super::{Driver, Input};
use crate::brick::disk::Disk;
use crate::brick::sink::off_thread;

impl<D: Disk> Driver<D> {
    /// Hands over what is to be logged, in order, up to what has bytes to be fetched.
    pub(super) fn log_on(&mut self, g: u32, seat: usize) {
        let member = Arc::clone(&self.seats[seat].member);
        while let Some(copy) = self.copy(g, seat)
            && !copy.is_fetching
        {
            if let Some(LogJob::Persist {
                ticket,
                records,
                lacking,
                ..
            }) = copy.unlogged.front()
            {
                let is_lacking = |record: &&Arc<Record<Kept>>| {
                    member.lacks(record) && !lacking.contains(&record.op)
                };
                let lacked: Vec<_> = records.iter().filter(is_lacking).cloned().collect();
                if !lacked.is_empty() {
                    let ticket = *ticket;
                    copy.is_fetching = true;
                    return self.fetch(g, seat, ticket, lacked);
                }
            }
            let Some(job) = copy.unlogged.pop_front() else {
                return;
            };
            self.log(seat, job);
        }
    }

    fn fetch(&mut self, g: u32, seat: usize, ticket: u64, records: Vec<Arc<Record<Kept>>>) {
        let member = Arc::clone(&self.seats[seat].member);
        let Some(life) = self.copy(g, seat).map(|copy| copy.life) else {
            return;
        };
        let (group, brick, peers) = (GroupId(g), member.id, self.shared.all_members());
        let in_sync = self.groups[g as usize].config.in_sync.contains(brick);
        let told = self.shared.input.clone();
        // Others wait for what one in sync logs.
        let pace = (!in_sync).then(|| Arc::clone(&self.handing.pace));
        self.shared.runtime.spawn(async move {
            let _permit = match pace {
                Some(pace) => pace.acquire_owned().await.ok(),
                None => None,
            };
            let fetched = off_thread(move || Ok(obtain_all(&member, group, &records, &peers)));
            let result = fetched.await.map_err(CopyError::Target).and_then(|all| all);
            let _ = told.send(Input::Fetched {
                brick,
                life,
                group,
                ticket,
                result,
            });
        });
    }

    pub(super) fn fetched(
        &mut self,
        of: (BrickId, u64),
        group: GroupId,
        fetched: u64,
        result: Copying<Vec<OpId>>,
    ) {
        let Some(seat) = self.living_seat(of, group) else {
            return;
        };
        let Some(copy) = self.copy(group.0, seat) else {
            return;
        };
        copy.is_fetching = false;
        if let Some(LogJob::Persist {
            ticket, lacking, ..
        }) = copy.unlogged.front_mut()
            && *ticket == fetched
        {
            match result {
                Ok(replaced) => {
                    lacking.extend(replaced);
                    if let Some(job) = copy.unlogged.pop_front() {
                        self.log(seat, job);
                    }
                }
                Err(CopyError::Target(error)) if is_fault(&error) && !self.holds_last(seat) => {
                    return self.fail_seat(seat, &error);
                }
                Err(CopyError::Source(error) | CopyError::Target(error)) => {
                    if let Some(copy) = self.copy(group.0, seat) {
                        copy.unlogged.clear();
                        copy.is_fetching = true;
                    }
                    return self.spoil(group.0, seat, &error);
                }
            }
        }
        self.log_on(group.0, seat);
    }

    pub(super) fn log(&mut self, seat: usize, job: LogJob) {
        let found = &mut self.seats[seat];
        if found.jobs_left == 0 {
            found.jobs_since = Instant::now();
        }
        found.jobs_left += 1;
        // A thread that is gone has said that its disk failed.
        let _ = self.seats[seat].jobs.send(job);
    }

    pub(super) fn logged(&mut self, brick: BrickId, logged: Logged) {
        let Some(seat) = self.seat_of(brick) else {
            return;
        };
        let found = &mut self.seats[seat];
        found.jobs_left = found.jobs_left.saturating_sub(logged.jobs);
        found.jobs_since = Instant::now();
        for (group, life, ticket) in logged.persisted {
            if !self.has_life(group.0, seat, life) {
                continue;
            }
            self.release(group.0, seat, ticket);
            self.inbox
                .push_back((group.0, seat, Event::Persisted { ticket }));
        }
        for (group, life, seq) in logged.kept {
            if self.has_life(group.0, seat, life) {
                self.inbox
                    .push_back((group.0, seat, Event::Checkpointed { seq }));
            }
        }
        for (group, life, session) in logged.whole {
            if self.has_life(group.0, seat, life) {
                self.inbox
                    .push_back((group.0, seat, Event::Settled { session }));
            }
        }
    }
}

/// Fetches what a brick lacks of these; gives the operations whose bytes nobody needs.
fn obtain_all<D: Disk>(
    member: &Member<D>,
    group: GroupId,
    records: &[Arc<Record<Kept>>],
    peers: &[Arc<Member<D>>],
) -> Copying<Vec<OpId>> {
    let mut replaced = Vec::new();
    for record in records {
        if !member.obtain(group, record, peers)? {
            replaced.push(record.op);
        }
    }
    Ok(replaced)
}
