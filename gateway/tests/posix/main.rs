//! The mount over a plain directory: its calls one by one, and through the kernel where this
//! machine lets the test mount.

#![allow(clippy::unwrap_used, reason = "a test may")]
#![allow(
    clippy::disallowed_methods,
    reason = "rename is what a mount is tried with"
)]

mod calls;
mod forgotten;
mod mounted;
mod plain;
mod told;
