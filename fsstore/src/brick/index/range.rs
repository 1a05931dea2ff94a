//! Spans of keys in byte order.

/// A span of keys in byte order. Bounds are bytes, since the end of a common prefix's span
/// need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key that can be in the span.
    pub(super) from: Vec<u8>,
    /// First key beyond the span; none where it has no end.
    pub(super) to: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub const fn all() -> Self {
        Self {
            from: Vec::new(),
            to: None,
        }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self {
            from: prefix.as_bytes().to_vec(),
            to: end_of_prefix(prefix.as_bytes()),
        }
    }

    /// Of these, the keys after `key`.
    #[must_use]
    pub fn after(self, key: &str) -> Self {
        let mut next = Vec::with_capacity(key.len() + 1);
        next.extend_from_slice(key.as_bytes());
        next.push(0);
        self.at_or_after(next)
    }

    /// Of these, the keys before `key`.
    #[must_use]
    pub fn before(mut self, key: &str) -> Self {
        let key = key.as_bytes();
        if self.to.as_deref().is_none_or(|to| key < to) {
            self.to = Some(key.to_vec());
        }
        self
    }

    /// Of these, the keys at or after `key`.
    #[must_use]
    pub(super) fn at_or_after(mut self, key: Vec<u8>) -> Self {
        if key > self.from {
            self.from = key;
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }
}

/// How keys are rolled up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rolling<'a> {
    /// Where the search for the delimiter begins: the key begins with this.
    pub prefix: &'a [u8],
    /// Never empty.
    pub delimiter: &'a [u8],
}

impl Rolling<'_> {
    /// The common prefix to which a key rolls up.
    pub fn common<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let rest = key.strip_prefix(self.prefix)?;
        let at = rest
            .windows(self.delimiter.len())
            .position(|window| window == self.delimiter)?;
        Some(&key[..self.prefix.len() + at + self.delimiter.len()])
    }
}

/// The first string after all those that begin with `prefix`; none where there is no such
/// string (an empty prefix, or 0xFF only).
pub(super) fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::{KeyRange, end_of_prefix};

    #[test]
    fn a_prefix_ends_before_the_next_byte() {
        assert_eq!(end_of_prefix(b"a/"), Some(b"a0".to_vec()));
        assert_eq!(end_of_prefix("é".as_bytes()), Some(vec![0xc3, 0xaa]));
        assert_eq!(end_of_prefix(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(end_of_prefix(b"\xff"), None);
        assert_eq!(end_of_prefix(b""), None);
    }

    #[test]
    fn bounds_only_narrow() {
        let range = KeyRange::prefix("b").after("a").before("z");
        assert_eq!(range, KeyRange::prefix("b"));
        assert!(KeyRange::prefix("b").after("c").is_empty());
        assert!(!KeyRange::prefix("b").after("b").is_empty());
    }
}
