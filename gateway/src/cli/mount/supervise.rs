//! A mount's life: joined to a server or served here, and mounted again where a server comes
//! back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fsstore::brick::Brick;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::{Plan, daemon};
use crate::cli::CommandError;
use crate::cli::control::HostKind;
use crate::cli::control::guest::{Joined, Parting, Refusal, Request, join};
use crate::cli::control::host::{Host, name};
use crate::cli::control::places::end_mount;
use crate::cli::layout::TreeLock;
use crate::cli::print::Answer;
use crate::cli::serve::{brick_options, raise_descriptor_limit};
use crate::posix::mounting::{self, Standing};

/// How often a server is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long one that has the tree may take until it takes mounts in: it may be starting.
const STARTING: Duration = Duration::from_secs(30);
/// Longest wait for a mount that was ended to be gone.
const PARTING: Duration = Duration::from_secs(10);

/// Mounts, and comes back when it is unmounted or told to end.
pub(super) fn run(plan: &Plan) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(plan.config.limits.disk_threads)
        .build()?;
    let outcome = runtime.block_on(live(plan));
    // A thread may wait for a server that says nothing.
    runtime.shutdown_background();
    outcome
}

/// The signals that end a mount.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, CommandError> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.hangup.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What comes next.
enum Next {
    /// The mount is gone for good.
    Done,
    /// Its server is gone; the mount stands dead.
    Lost(HostKind),
}

async fn live(plan: &Plan) -> Result<(), CommandError> {
    let mut signals = Signals::new()?;
    let mut lost: Option<HostKind> = None;
    let mut since = Instant::now();
    // Whether a dead mount was left standing: that it is gone is then someone's word.
    let mut is_left_standing = false;
    loop {
        // A server that is gone is expected back, and would find its tree taken.
        if lost != Some(HostKind::Serve)
            && let Some(lock) = plan.layout.try_lock_for_mount()?
        {
            return serve_here(plan, lock, lost.is_some(), signals).await;
        }
        let request = Request {
            wish: &plan.wish,
            options: &plan.options,
            was_left: is_left_standing,
        };
        match tokio::task::block_in_place(|| join(&plan.layout.state(), request)) {
            Ok(joined) => {
                tracing::debug!(pid = joined.pid, "the mount is served by another process");
                if lost.is_none() {
                    announce(plan, &joined.data, joined.pid)?;
                }
                match watch(plan, joined, &mut signals).await {
                    Next::Done => return Ok(()),
                    Next::Lost(by) => lost = Some(by),
                }
                is_left_standing = true;
                since = Instant::now();
                tracing::warn!("the server is gone; the mount waits for it");
            }
            Err(Refusal::Nobody) => {}
            Err(Refusal::TakenAway) => return Ok(()),
            Err(Refusal::Refused(error) | Refusal::Bare(error)) if lost.is_none() => {
                return Err(error);
            }
            Err(Refusal::Refused(error)) => tracing::debug!(error = error.text, "not yet"),
            Err(Refusal::Bare(error)) => {
                tracing::debug!(error = error.text, "not yet");
                is_left_standing = false;
            }
        }
        if lost.is_none() && since.elapsed() > STARTING {
            clear(plan);
            let holder = plan.layout.lock().err();
            return Err(holder.unwrap_or_else(|| CommandError::new("no server took the mount")));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = signals.recv() => {
                clear(plan);
                return Ok(());
            }
        }
        if is_left_standing && is_taken_away(plan) {
            tracing::info!("the mount was taken away");
            return Ok(());
        }
    }
}

/// Takes a dead mount away.
fn clear(plan: &Plan) {
    if is_dead(plan)
        && let Ok(Some(id)) = mounting::ours(&plan.wish.at)
    {
        end_mount(&plan.wish.at, id);
    }
}

fn is_dead(plan: &Plan) -> bool {
    matches!(mounting::standing(&plan.wish.at), Ok(Standing::Dead))
}

/// Whether the dead mount that was left standing stands no more: someone unmounted it.
fn is_taken_away(plan: &Plan) -> bool {
    matches!(mounting::standing(&plan.wish.at), Ok(Standing::Free))
}

/// Waits for the end of a mount that another process serves.
async fn watch(plan: &Plan, joined: Joined, signals: &mut Signals) -> Next {
    let by = joined.by;
    let joined = Arc::new(joined);
    let mut is_leaving = false;
    loop {
        let waiting = Arc::clone(&joined);
        let mut word = tokio::task::spawn_blocking(move || waiting.wait());
        let parting = tokio::select! {
            word = &mut word => word.unwrap_or(Parting::Lost),
            () = signals.recv() => {
                let end = || end_mount(&plan.wish.at, joined.id());
                if tokio::task::block_in_place(end) {
                    // Who has files open keeps the session; the server serves them to their end.
                    let _ = tokio::time::timeout(PARTING, word).await;
                }
                return Next::Done;
            }
        };
        match parting {
            Parting::Leaving => {
                is_leaving = true;
                tokio::task::block_in_place(|| joined.abort());
            }
            Parting::Ended if !is_leaving => {
                clear(plan);
                return Next::Done;
            }
            Parting::Ended | Parting::Lost => return Next::Lost(by),
        }
    }
}

/// Takes the tree and serves the mount, and those of others, until the last is gone.
async fn serve_here(
    plan: &Plan,
    lock: TreeLock,
    was_announced: bool,
    mut signals: Signals,
) -> Result<(), CommandError> {
    if plan.layout.has_bricks()? {
        let shown = plan.layout.dir().display();
        return Err(CommandError::new(format!(
            "no portico serves {shown}: a volume of several bricks is mounted where its server runs, \
             so start `portico serve {shown}` first"
        )));
    }
    raise_descriptor_limit();
    let brick = Brick::open(brick_options(&plan.layout, &plan.config)).await?;
    let host = Host::open(&plan.layout, Arc::new(brick.clone()), HostKind::Mount, None)?;
    let (sender, mut ended) = oneshot::channel();
    let mounted = tokio::task::block_in_place(|| {
        host.mount(&plan.options, &plan.wish, move || {
            let _ = sender.send(());
        })
    });
    let data_path = match mounted {
        Ok(data_path) => data_path,
        Err(error) => {
            brick.close().await?;
            return Err(error);
        }
    };
    if !was_announced {
        announce(plan, name(data_path), std::process::id())?;
    }
    tokio::select! {
        _ = &mut ended => {}
        () = signals.recv() => tokio::task::block_in_place(|| host.leave()),
    }
    // Mounts that joined this one are served to their end, unless this process is told to end.
    while host.is_in_use() {
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = signals.recv() => {
                tokio::task::block_in_place(|| host.leave());
                break;
            }
        }
    }
    brick.close().await?;
    drop(lock);
    Ok(())
}

/// Says that the mount stands.
fn announce(plan: &Plan, data: &str, pid: u32) -> Result<(), CommandError> {
    Answer::One(vec![
        ("mountpoint", json!(plan.wish.at.display().to_string())),
        ("bucket", json!(plan.wish.bucket)),
        ("data", json!(data)),
        ("served_by", json!(pid)),
    ])
    .print(plan.json)?;
    if plan.is_detached {
        daemon::let_go()?;
    }
    Ok(())
}
