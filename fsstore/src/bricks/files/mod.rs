//! A volume on several bricks as a tree of files: what a mount changes is a record of the
//! replicated log like any other change.

pub(super) mod applying;
pub mod change;
pub(super) mod nodes;
