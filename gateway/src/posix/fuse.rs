//! FUSE, by the crate fuser: the kernel's requests become calls of [`FileSystem`], its answers
//! become replies. Nothing else names the crate.
//!
//! A call that panics is answered EIO and the session goes on: a file system that hangs takes
//! every process with it that touches the mount.

mod answers;
mod calls;
mod convert;
mod eager;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use fsstore::files::{Files, FilesWatcher};
use fuser::{BackingId, Config, INodeNo, InitFlags, KernelConfig, Notifier, Session, SessionACL};

use self::eager::Eagerness;
use super::fs::FileSystem;
use super::mounting;
use super::sessions::{Company, Terms};
use super::telling::{Kernel, Teller};

/// Longest write in one request, in bytes.
const MAX_WRITE_LEN_BYTES: u32 = 1 << 20;
/// Most requests of readahead and the like under way.
const MAX_BACKGROUND: u16 = 128;
/// What lies below a passthrough mount may not be a stacked file system itself.
const STACK_DEPTH: u32 = 1;
/// The notification that ends all names at once, and the protocol's minor version that brought
/// it. Source: linux/fuse.h, FUSE_NOTIFY_INC_EPOCH, 7.44.
const NOTIFY_INC_EPOCH: i32 = 8;
const MINOR_WITH_EPOCH: u32 = 44;

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPath {
    /// The kernel reads and writes the brick's files itself.
    Passthrough,
    /// Every read and write is a request to this process.
    ThroughServer,
}

/// What is said of a path: a state that goes from "may pass" to "passes", or to "does not".
#[derive(Debug)]
struct Passing(AtomicU8);

const MAY_PASS: u8 = 0;
const PASSES: u8 = 1;
const PASSES_NOT: u8 = 2;

impl Passing {
    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) != PASSES_NOT
    }

    /// Notes the outcome of an attempt. Gives whether the session is an ordinary one from now on,
    /// which it becomes where the very first attempt fails.
    fn note(&self, has_passed: bool) -> bool {
        let next = if has_passed { PASSES } else { PASSES_NOT };
        let (now, relaxed) = (MAY_PASS, Ordering::Relaxed);
        let _ = self.0.compare_exchange(now, next, relaxed, relaxed);
        !self.is_on()
    }
}

type Fs<V> = FileSystem<V, BackingId>;

/// A volume as fuser's file system.
struct Adapter<V: Files> {
    fs: Arc<Fs<V>>,
    company: Arc<Company>,
    facts: Arc<KernelFacts>,
}

/// What is learned of the kernel as the session goes.
#[derive(Debug)]
struct KernelFacts {
    passing: Passing,
    minor_version: OnceLock<u32>,
    notifier: OnceLock<Notifier>,
    eagerness: OnceLock<Eagerness>,
}

impl KernelFacts {
    /// Agrees with the kernel on what the session does.
    fn agree(&self, config: &mut KernelConfig) {
        let passes = self.passing.is_on()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACK_DEPTH).is_ok();
        if !passes {
            self.passing.note(false);
        }
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            // Else the kernel asks before each write for capabilities to take away.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // It may ask for what it has forgotten.
            InitFlags::FUSE_EXPORT_SUPPORT,
            // Of files that pass through, the kernel keeps no pages here; whether they do is not
            // yet known.
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ];
        // One that the kernel has not, it does without.
        for flag in wanted {
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(MAX_WRITE_LEN_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        let _ = self.minor_version.set(config.kernel_abi().1);
    }

    /// A thread of the session has one.
    fn note_request(&self) {
        if let Some(eagerness) = self.eagerness.get() {
            eagerness.note();
        }
    }

    fn has_epoch(&self) -> bool {
        *self.minor_version.get().unwrap_or(&0) >= MINOR_WITH_EPOCH
    }
}

/// A session that runs.
pub struct Running {
    guard: JoinHandle<std::io::Result<()>>,
    /// How bytes travel.
    pub data_path: DataPath,
    /// Who is to be told of changes.
    pub watcher: Arc<dyn FilesWatcher>,
}

impl Running {
    /// Waits until the mount is gone.
    pub fn join(self) -> std::io::Result<()> {
        let ended = self.guard.join();
        ended.unwrap_or_else(|_| Err(std::io::Error::other("the session panicked")))
    }
}

/// Runs a session on a mount's `device`, over what is below `base`. Errors: ENOENT, ENOTDIR for
/// the base; those of the kernel's greeting.
pub fn start<V: Files>(
    volume: Arc<V>,
    terms: Terms,
    device: OwnedFd,
    company: Arc<Company>,
    threads: usize,
) -> std::io::Result<Running> {
    let fs = Arc::new(Fs::new(Arc::clone(&volume), terms)?);
    fs.joins(&company);
    let facts = Arc::new(KernelFacts {
        passing: Passing(AtomicU8::new(MAY_PASS)),
        minor_version: OnceLock::new(),
        notifier: OnceLock::new(),
        eagerness: OnceLock::new(),
    });
    let adapter = Adapter {
        fs: Arc::clone(&fs),
        company,
        facts: Arc::clone(&facts),
    };
    let mut config = Config::default();
    config.n_threads = Some(threads);
    // A descriptor for each thread, where the device may be opened: fusermount3 may, we perhaps
    // not.
    let has_own = mounting::can_open_device();
    config.clone_fd = has_own;
    // Who may come in is the kernel's to decide, by `allow_other`.
    let session = Session::from_fd(adapter, device, SessionACL::All, config)?;
    if facts.passing.is_on() {
        // Whether files pass through is their file system's doing: one that is stacked on others
        // already is refused.
        let trial = volume.trial_file().map_err(std::io::Error::from);
        let tried = trial.and_then(|file| BackingId::create_raw(&session, file));
        if let Err(error) = tried {
            tracing::info!(%error, "no passthrough");
            facts.passing.note(false);
        }
    }
    let data_path = if facts.passing.is_on() {
        DataPath::Passthrough
    } else {
        DataPath::ThroughServer
    };
    let kernel = ToldKernel {
        notifier: session.notifier(),
        device: session.as_fd().try_clone_to_owned()?,
        facts: Arc::clone(&facts),
    };
    let _ = facts.notifier.set(session.notifier());
    if has_own {
        match Eagerness::of(session.as_fd().try_clone_to_owned()?) {
            Ok(Some(eagerness)) => {
                let _ = facts.eagerness.set(eagerness);
            }
            Ok(None) => {}
            Err(error) => tracing::info!(%error, "a mount's session always sleeps"),
        }
    }
    let guard = std::thread::Builder::new()
        .name("mount".to_owned())
        .spawn(move || session.run())?;
    Ok(Running {
        guard,
        data_path,
        watcher: Arc::new(Teller::new(fs, kernel)),
    })
}

/// The kernel of a session, as someone to be told what it must forget.
struct ToldKernel {
    notifier: Notifier,
    device: OwnedFd,
    facts: Arc<KernelFacts>,
}

/// A notification the kernel did not take: it does not know what it was told of, or is gone.
fn note(outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "the kernel took no notice");
    }
}

impl Kernel for ToldKernel {
    fn forget_name(&self, parent: u64, name: &OsStr) {
        note(self.notifier.inval_entry(INodeNo(parent), name));
    }

    fn forget_attr(&self, ino: u64) {
        note(self.notifier.inval_inode(INodeNo(ino), -1, 0));
    }

    fn forget_names_in(&self, ino: u64) {
        // They are kept in pages, as a file's bytes are.
        self.forget_file(ino);
    }

    fn forget_file(&self, ino: u64) -> bool {
        let outcome = self.notifier.inval_inode(INodeNo(ino), 0, 0);
        let is_unknown = matches!(&outcome, Err(e) if e.kind() == std::io::ErrorKind::NotFound);
        note(outcome);
        !is_unknown
    }

    /// A message of fuser's has no room for this notification: it is its header alone, of
    /// length, code and the number 0.
    fn forget_all_names(&self) -> bool {
        if !self.facts.has_epoch() {
            return false;
        }
        let len_bytes = 16_u32.to_ne_bytes();
        let parts = [&len_bytes[..], &NOTIFY_INC_EPOCH.to_ne_bytes(), &[0; 8]].concat();
        match rustix::io::write(&self.device, &parts) {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "the kernel forgets names one by one");
                false
            }
        }
    }
}
