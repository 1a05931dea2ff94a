//! Several bricks of one host as one volume: who they are and what is kept of them.
//!
//! - [`identity`]: what a brick says of itself, and which directories are refused
//! - [`plan`]: the volume's configuration, and how it changes with its bricks
//! - [`seat`]: the configuration in one place, on disk
//! - [`seats`]: in all of them while the volume is served; [`starting`]: what a start is made from
//! - [`home`]: a brick's directory; [`making`]: directories become bricks
//! - [`stepping`]: the way from where names are to where they should be; [`pace`]: how fast
//! - [`scrubber`]: everything read again, to find rot
//! - [`status`]: how it is, and events where that changes
//!
//! What is decided here and how is `placement::keeper`'s; this is where it is read and written.

pub mod home;
pub mod identity;
pub mod making;
pub mod pace;
pub mod plan;
pub mod scrubber;
pub mod seat;
pub mod seats;
pub mod starting;
pub mod status;
pub mod stepping;
