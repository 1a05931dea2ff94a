//! For tests only: the contract suite that every [`crate::volume::Volume`] passes, and
//! [`MemVolume`], a model in memory that passes it and on which doors are tested.

mod body;
pub mod contract;
mod memory;
mod paging;
mod upload;

pub use memory::{MemObject, MemStaged, MemVolume};
pub use upload::MemStagedPart;

#[cfg(test)]
mod tests {
    use super::MemVolume;

    crate::volume_contract!(async { (MemVolume::new(), ()) });
}
