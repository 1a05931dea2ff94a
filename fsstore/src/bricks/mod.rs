//! Several bricks of one host as one volume: every object is a plain file on as many of them as
//! the volume keeps copies.
//!
//! Who they are, and what is kept of them:
//!
//! - [`identity`]: what a brick says of itself, and which directories are refused
//! - [`plan`]: the volume's configuration, and how it changes with its bricks
//! - [`seat`]: the configuration in one place, on disk
//! - [`seats`]: in all of them while the volume is served; [`starting`]: what a start is made from
//! - [`returning`]: bricks that are looked for while the volume is served
//! - [`home`]: a brick's directory; [`making`]: directories become bricks
//! - [`stepping`]: the way from where names are to where they should be; [`pace`]: how fast
//! - [`scrubber`]: everything read again, to find rot
//! - [`mending`]: what rotted, made anew from a good copy; [`quarantine`]: the bad file, kept aside
//! - [`status`]: how it is, and events where that changes
//!
//! What is decided there and how is `placement::keeper`'s.
//!
//! How copies stay equal:
//!
//! - [`volume`], [`uploads`], `listing`, [`object`]: what a door asks for; [`serving`] begins and ends it;
//!   `coming`: bricks that come and go meanwhile
//! - `driver`: the thread that steps the replicas of every group (`placement::replica`)
//! - [`log`] and `logger`: what is durable before it is done; [`member`]: a change becomes files
//! - `fan`: a body on its way to many bricks; `healing`: what a brick lacks, compared and fetched
//! - [`ledger`]: who keeps the groups' configurations
//!
//! **A change.** The body is staged without a name on every brick in sync, digested once. In the
//! name's turn at the group's primary the precondition is decided on that brick's files, and with it
//! everything that becomes of the name: time, record, owner ([`kinds::Change`]). Each brick in sync
//! then gives its staged file that time and record, and a name in `replica/`, and syncs it together
//! with the change in its log: one log a brick, one sync for whatever came meanwhile. Once all have
//! it durably it is committed, and each brick publishes it in its turn, without a sync. The
//! client is answered when all have published it. Every few seconds a brick syncs its tree and notes in
//! its log how far that was; so a change costs a brick no more syncs than without the layer.
//!
//! **After a crash** each brick makes again what its log has above that note. A file carries the
//! number of the change that made it (its *stamp*), so that what is there already, or newer, stays.
//! A change that is in few logs is in all of them or in none before anyone is served: the new
//! primary's first record is committed first.
//!
//! **Reads** are asked of the primary's brick, which has published all that was answered; where its disk
//! fails, of the next. **Listings** merge the pages of as few bricks as cover all groups, in one
//! configuration.
//!
//! **A brick fails** where its log or tree cannot be written, or an object not be read: its groups go
//! on without it, as soon as the ledger says so. With two copies they go on with one; in general
//! with half of the copies, rounded up. It looks itself whether its disk is back. A brick that
//! comes back, or comes anew, learns: by the records it missed where those are still kept, else
//! all its names of a group are compared by their stamps, and what differs is fetched whole.
//!
//! **Full bricks.** A body that would leave one of its bricks without the reserve is refused; the brick
//! stays. Where the log itself finds no room, the brick is taken out.
//!
//! **Groups.** A key's group is made of the path of its directory and its name. Buckets are kept in
//! the group of their name; a brick makes a bucket's directory where an object needs it.

mod coming;
mod driver;
mod fan;
pub mod files;
mod healing;
pub mod home;
pub mod identity;
pub mod kinds;
pub mod ledger;
mod listing;
pub mod log;
mod logger;
pub mod making;
pub mod member;
pub mod mending;
pub mod object;
pub mod pace;
pub mod plan;
pub mod quarantine;
pub mod returning;
pub mod scrubber;
pub mod seat;
pub mod seats;
pub mod serving;
mod shared;
pub mod starting;
pub mod status;
pub mod stepping;
pub mod uploads;
pub mod volume;

pub use serving::Bricks;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
