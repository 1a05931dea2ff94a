//! What holds for a bucket, where a volume has a rule and single buckets others.

use std::collections::BTreeMap;

use crate::name::BucketName;

/// A rule of the volume, and those of buckets that have their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ByBucket<T> {
    /// Where nothing else is said.
    pub default: T,
    /// By bucket name.
    pub buckets: BTreeMap<String, T>,
}

impl<T: Copy> ByBucket<T> {
    /// What holds for a bucket.
    pub fn of(&self, name: &BucketName) -> T {
        self.buckets
            .get(name.as_str())
            .copied()
            .unwrap_or(self.default)
    }

    /// Whether something may hold somewhere.
    pub fn any(&self, holds: impl Fn(T) -> bool) -> bool {
        holds(self.default) || self.buckets.values().any(|own| holds(*own))
    }
}

/// One rule for all.
impl<T> From<T> for ByBucket<T> {
    fn from(default: T) -> Self {
        Self {
            default,
            buckets: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_its_own_rule_or_the_volumes() {
        let mut rules = ByBucket::from(1);
        rules.buckets.insert("own".to_owned(), 2);
        assert_eq!(rules.of(&BucketName::parse("own").unwrap()), 2);
        assert_eq!(rules.of(&BucketName::parse("other").unwrap()), 1);
        assert!(rules.any(|rule| rule == 2) && rules.any(|rule| rule == 1));
        assert!(!rules.any(|rule| rule == 3));
    }
}
