//! What a group's configuration says. It is kept by a store that changes it by compare-and-set
//! alone: etcd across hosts, the volume's own file on one host. Nothing else decides who counts.

use crate::layout::BrickId;

/// Most copies of a group, those being made among them.
pub const MAX_COPIES: usize = 7;

/// A set of bricks, at most [`MAX_COPIES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BrickSet {
    ids: [BrickId; MAX_COPIES],
    len: u8,
}

/// One life of a brick: from a start of its replica to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Life {
    /// Whose.
    pub brick: BrickId,
    /// Counts the brick's starts, durably: a later life has a greater number. Below 2^48.
    pub number: u64,
}

/// Who holds a group, as of one epoch. Each change makes the next epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupConfig {
    /// The revision that compare-and-set compares; begins with 1.
    pub epoch: u64,
    /// Who orders writes; in sync.
    pub primary: BrickId,
    /// Who has every committed record, durably: each of them may be read, and may become primary.
    pub in_sync: BrickSet,
    /// Who proposed this epoch. A primary serves only in epochs made in its present life.
    pub maker: Life,
}

impl BrickSet {
    /// The set of some bricks. Panics with more than [`MAX_COPIES`].
    pub fn of(bricks: &[BrickId]) -> Self {
        let mut set = Self::default();
        for brick in bricks {
            set = set.with(*brick);
        }
        set
    }

    /// How many.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// True for none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bricks, ascending.
    pub fn iter(&self) -> impl Iterator<Item = BrickId> + use<> {
        self.ids.into_iter().take(usize::from(self.len))
    }

    /// True where `brick` is one of them.
    pub fn contains(&self, brick: BrickId) -> bool {
        self.ids[..self.len()].contains(&brick)
    }

    /// The set with one more. Panics where it is full.
    #[must_use]
    pub fn with(mut self, brick: BrickId) -> Self {
        if !self.contains(brick) {
            assert!(self.len() < MAX_COPIES, "more copies than a group may have");
            self.ids[self.len()] = brick;
            self.len += 1;
            let len = self.len();
            self.ids[..len].sort_unstable();
        }
        self
    }

    /// The set with one less.
    #[must_use]
    pub fn without(self, brick: BrickId) -> Self {
        let mut set = Self::default();
        for other in self.iter().filter(|other| *other != brick) {
            set.ids[set.len()] = other;
            set.len += 1;
        }
        set
    }

    /// The bricks of either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        other.iter().fold(self, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::BrickSet;
    use crate::layout::BrickId;

    #[test]
    fn sets_are_equal_whatever_the_order_they_were_made_in() {
        let [a, b, c] = [BrickId(1), BrickId(2), BrickId(3)];
        assert_eq!(BrickSet::of(&[c, a, b, a]), BrickSet::of(&[a, b, c]));
        let less = BrickSet::of(&[a, b, c]).without(b);
        assert_eq!(less, BrickSet::of(&[c, a]));
        assert_eq!(less.union(BrickSet::of(&[b])).len(), 3);
        assert!(!less.contains(b) && less.contains(c));
    }
}
