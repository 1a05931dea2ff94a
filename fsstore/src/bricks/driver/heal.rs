//! Bringing a brick into sync: pages of names compared, and files fetched.
//!
//! Pages and files are read on the primary's brick in its turn, after all that was committed
//! before, so that they are what the replica says they are; bytes are copied beside. What is
//! fetched is put in place in the learner's turn, in the order in which the replica said it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use placement::group::GroupId;
use placement::layout::BrickId;
use placement::replica::{Action, Event, Message, Payload, Position, Stored};

use super::super::healing;
use super::super::kinds::Kept;
use super::super::member::{CopyError, Copying, Member, spoil};
use super::super::shared::is_fault;
use super::{Driver, Input};
use crate::brick::disk::Disk;
use crate::error::StoreError;

/// What a brick has of a group that it never held.
pub(super) fn nothing() -> Stored<Kept> {
    Stored {
        base: Position::default(),
        records: Vec::new(),
        checkpoint: 0,
        is_complete: false,
    }
}

impl<D: Disk> Driver<D> {
    pub(super) fn heal(&mut self, g: u32, seat: usize, action: Action<Kept>) {
        match action {
            Action::SendPage {
                to,
                session,
                after,
                as_of,
            } => self.send_page(g, seat, to, (session, as_of), after),
            Action::SendCopy {
                to,
                session,
                name,
                as_of,
            } => self.send_copy(g, seat, to, (session, as_of), name),
            Action::Compare {
                session,
                page,
                keep,
            } => {
                let (member, grouping) = (self.member(seat), self.shared.grouping);
                let Some(copy) = self.copy(g, seat) else {
                    return;
                };
                let (since, touched) = (Arc::clone(&copy.rebased), Arc::clone(&copy.touched));
                let spoiled = Arc::clone(&copy.spoiled);
                let (turns, session_turn) = (Arc::clone(&copy.walk), copy.rebases);
                let reached = member.inner.in_turn(None, |_, _| Ok(()));
                self.then_tell(g, seat, async move {
                    reached.await?;
                    // What was applied before is in the tree by now.
                    let since = *since.get_or_init(Instant::now);
                    let own = healing::names_of(&member, grouping, GroupId(g), since).await?;
                    let comparing = Arc::clone(&member);
                    let compared = member.inner.in_turn(None, move |_, turn| {
                        // The comparison was given up: what came since is none of its concern.
                        if turns.load(Ordering::Acquire) != session_turn {
                            return Ok(Vec::new());
                        }
                        let compared =
                            healing::compare(&comparing, turn, &own, &page, &keep, &touched);
                        if compared.is_err() {
                            spoil(&spoiled, u64::MAX);
                        }
                        compared
                    });
                    let wants = compared.await?;
                    Ok(Event::Compared { session, wants })
                });
            }
            Action::Replace { name, copy } => {
                let member = self.member(seat);
                let Some(found) = self.copy(g, seat) else {
                    return;
                };
                let (life, spoiled) = (found.life, Arc::clone(&found.spoiled));
                let (brick, group) = (member.id, GroupId(g));
                let replacing = Arc::clone(&member);
                let replaced = member.inner.in_turn(None, move |_, turn| {
                    let replaced = healing::replace(&replacing, turn, &name, copy.as_deref());
                    if replaced.is_err() {
                        spoil(&spoiled, u64::MAX);
                    }
                    replaced
                });
                let told = self.shared.input.clone();
                self.shared.runtime.spawn(async move {
                    if let Err(error) = replaced.await {
                        let _ = told.send(Input::Spoiled {
                            brick,
                            life,
                            group,
                            error,
                        });
                    }
                });
            }
            Action::Settle { session, seq } => {
                let Some(copy) = self.copy(g, seat) else {
                    return;
                };
                let mark = (GroupId(g), copy.life, copy.rebases, seq);
                self.seats[seat].settling.push((mark, session));
                self.settle_trees(seat);
            }
            // Scrubbing is not driven from here yet: nothing is found rotten.
            _ => {}
        }
    }

    /// Syncs a brick's tree for all groups that are to be marked whole: those that come meanwhile
    /// wait for the next.
    pub(super) fn settle_trees(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        if seat.is_settling || seat.settling.is_empty() {
            return;
        }
        seat.is_settling = true;
        let trees = std::mem::take(&mut seat.settling);
        let synced = seat.member.inner.checkpoint();
        let (told, brick) = (self.shared.input.clone(), seat.member.id);
        self.shared.runtime.spawn(async move {
            let result = synced.await;
            let _ = told.send(Input::Whole {
                brick,
                trees,
                result,
            });
        });
    }

    pub(super) fn member(&self, seat: usize) -> Arc<Member<D>> {
        Arc::clone(&self.seats[seat].member)
    }

    /// Tells a replica what came of a step; where it failed, the copy begins again later.
    fn then_tell(
        &mut self,
        g: u32,
        seat: usize,
        step: impl Future<Output = Result<Event<Kept>, StoreError>> + Send + 'static,
    ) {
        let (told, group) = (self.shared.input.clone(), GroupId(g));
        let brick = self.seats[seat].member.id;
        let Some(life) = self.copy(g, seat).map(|copy| copy.life) else {
            return;
        };
        self.shared.runtime.spawn(async move {
            let input = match step.await {
                Ok(event) => Input::Tell {
                    brick,
                    life,
                    group,
                    event: Box::new(event),
                },
                Err(error) => Input::Spoiled {
                    brick,
                    life,
                    group,
                    error,
                },
            };
            let _ = told.send(input);
        });
    }

    /// Sends a payload from one replica to another, once it was made.
    pub(super) fn then_send(
        &mut self,
        g: u32,
        (from, to): (usize, BrickId),
        made: impl Future<Output = Copying<Payload<Kept>>> + Send + 'static,
    ) {
        let Some(target) = self.seat_of(to) else {
            return;
        };
        let Some(life) = self.copy(g, target).map(|copy| copy.life) else {
            return;
        };
        let config = self.groups[g as usize].config;
        let (told, group) = (self.shared.input.clone(), GroupId(g));
        let from = self.seats[from].member.id;
        self.shared.runtime.spawn(async move {
            let payload = match made.await {
                Ok(payload) => payload,
                Err(CopyError::Source(error)) if is_fault(&error) => {
                    let _ = told.send(Input::Failed { brick: from, error });
                    return;
                }
                Err(CopyError::Target(error)) => {
                    let _ = told.send(Input::Spoiled {
                        brick: to,
                        life,
                        group,
                        error,
                    });
                    return;
                }
                // The learner asks again.
                Err(CopyError::Source(error)) => {
                    tracing::warn!(brick = from.0, "a file could not be handed over: {error}");
                    return;
                }
            };
            let message = Message { config, payload };
            let _ = told.send(Input::Tell {
                brick: to,
                life,
                group,
                event: Box::new(Event::Received { from, message }),
            });
        });
    }
}
