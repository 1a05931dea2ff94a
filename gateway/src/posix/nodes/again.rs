//! Nodes that the kernel asks for by their number alone.

use std::ffi::OsStr;

use fsstore::files::FileAttr;

use super::{FIRST_STAND_IN, Nodes};

/// Whether a number is none of an inode's, and means nothing to the next mount.
pub fn is_stand_in(number: u64) -> bool {
    number >= FIRST_STAND_IN
}

impl<H: Clone> Nodes<H> {
    /// Notes what stands at `name`, of which the kernel is not told. Gives the number by which it
    /// would be.
    pub fn placed(&self, parent: u64, name: &OsStr, attr: &mut FileAttr) -> u64 {
        let mut table = self.lock();
        table.place(parent, name, attr);
        attr.ino
    }

    /// Notes that the kernel is given a node once more, by no name. Gives whether its attributes
    /// may be remembered; none where the node is of another file.
    pub fn met_again(&self, ino: u64, attr: &FileAttr) -> Option<bool> {
        let mut table = self.lock();
        let node = table.nodes.get_mut(&ino)?;
        if node.generation != attr.generation {
            return None;
        }
        node.lookups += 1;
        node.note_last(attr);
        Some(node.writer_count() == 0)
    }
}
