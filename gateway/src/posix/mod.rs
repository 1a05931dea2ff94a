//! The mount: a volume as POSIX files, through the kernel's FUSE.
//!
//! - [`nodes`]: what the kernel knows; [`handles`] and [`backings`]: what is held open for it;
//!   [`near`] and [`held`]: what is held open for the next call
//! - [`fs`]: each of the kernel's calls as a plain method over [`fsstore::files::Files`]
//! - [`fuse`]: the kernel's protocol, by the crate fuser; translates, decides nothing
//! - [`telling`]: what others change, told to the kernel
//! - [`sessions`]: the mounts that a process serves, from their beginning to their end
//! - [`shared`]: the one file system that a volume's mounts are clones of
//! - [`mounting`]: mountpoints: mount, unmount, and whether one is dead
//!
//! The kernel checks permissions (`default_permissions`), and remembers names and attributes for
//! a day: what others change is told to it exactly ([`telling`]), after the change and
//! before its author is answered. All mounts of a volume are one file system to it, where it may
//! be had: so it knows what they do, and locks hold among them. Else each is
//! a file system of its own; these are not told of each other, and with more than one nothing is
//! remembered.

pub mod backings;
pub mod fs;
pub mod fuse;
pub mod handles;
pub mod held;
pub mod mounting;
pub mod near;
pub mod nodes;
pub mod sessions;
pub mod shared;
pub mod telling;
