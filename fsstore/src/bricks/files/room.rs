//! Room, as what can still be written: each byte needs as many bricks as there are copies.

use placement::group::GroupId;

use super::super::Bricks;
use crate::brick::osdisk::OsDisk;
use crate::files::{Errno, FileResult, FileSystemFacts};

/// Length of a block in bytes: bricks may have blocks of several lengths.
const BLOCK_LEN_BYTES: u64 = 4_096;

impl Bricks<OsDisk> {
    pub(super) fn room_facts(&self) -> FileResult<FileSystemFacts> {
        let members = self.shared.live_members();
        let facts: FileResult<Vec<_>> = members
            .iter()
            .map(|member| member.inner.disk().file_system_facts())
            .collect();
        let facts = facts?;
        let groups = (0..self.shared.grouping.count()).map(GroupId);
        let copies = groups.map(|group| self.shared.in_sync_bits(group).count_ones());
        let copies = copies.max().ok_or(Errno::IO)?.max(1) as usize;
        let of = |each: &dyn Fn(&FileSystemFacts) -> u64| {
            spread(facts.iter().map(each).collect(), copies)
        };
        let blocks = |facts: &FileSystemFacts, count: u64| {
            let bytes = u128::from(count) * u128::from(facts.block_len_bytes);
            u64::try_from(bytes / u128::from(BLOCK_LEN_BYTES)).unwrap_or(u64::MAX)
        };
        let names = facts.iter().map(|facts| facts.name_len_bytes);
        Ok(FileSystemFacts {
            block_len_bytes: BLOCK_LEN_BYTES,
            blocks: of(&|facts| blocks(facts, facts.blocks)),
            blocks_free: of(&|facts| blocks(facts, facts.blocks_free)),
            blocks_available: of(&|facts| blocks(facts, facts.blocks_available)),
            files: of(&|facts| facts.files),
            files_free: of(&|facts| facts.files_free),
            name_len_bytes: names.min().ok_or(Errno::IO)?,
        })
    }
}

/// How much can be kept in so many copies, each on another brick, by bricks with this room: the
/// most for which bricks, none counted for more than the whole, have enough in sum.
fn spread(mut room: Vec<u64>, copies: usize) -> u64 {
    room.sort_unstable();
    let copies = copies.min(room.len()).max(1);
    let mut left = room.len();
    let mut largest = room.iter().rev().take(copies - 1);
    let mut bound = u64::MAX;
    let mut sum: u128 = room.iter().map(|room| u128::from(*room)).sum();
    // Bricks with more than their share are taken whole, one after the other.
    for taken in 0..copies {
        let share = sum / (copies - taken) as u128;
        bound = bound.min(u64::try_from(share).unwrap_or(u64::MAX));
        let Some(most) = largest.next() else { break };
        sum -= u128::from(*most);
        left -= 1;
        if left == 0 {
            break;
        }
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn room_is_what_can_be_kept_in_as_many_copies() {
        assert_eq!(spread(vec![10, 10], 2), 10);
        assert_eq!(spread(vec![10, 30], 2), 10);
        assert_eq!(spread(vec![10, 10, 10], 2), 15);
        assert_eq!(spread(vec![10, 10, 100], 2), 20);
        assert_eq!(spread(vec![7], 2), 7);
        assert_eq!(spread(vec![5, 5, 5], 3), 5);
        assert_eq!(spread(vec![5, 6, 7], 1), 18);
    }
}
