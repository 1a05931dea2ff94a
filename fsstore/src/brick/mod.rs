//! One brick: a directory tree of plain files that is a volume.

pub mod attrs;
pub mod index;
