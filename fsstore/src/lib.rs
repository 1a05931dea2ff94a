//! The waist and the ground of portico: objects as plain files.
//!
//! Doors (S3, Swift, the mount) speak to the [`volume::Volume`] trait; [`brick`] implements it
//! over one directory tree. This crate knows no protocol: no HTTP, no XML, no FUSE.

pub mod brick;
pub mod bricks;
pub mod by_bucket;
pub mod checksum;
pub mod clock;
pub mod compose;
pub mod digest;
pub mod durable;
pub mod error;
pub mod files;
pub mod keypath;
pub mod locks;
pub mod name;
pub mod object;
pub mod permission;
pub mod shared;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod volume;
