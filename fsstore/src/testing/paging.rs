//! Listings by brute force: the meaning of prefix, delimiter, marker and limit in the plainest
//! form there is.

use crate::name::ObjectKey;
use crate::volume::MAX_PAGE;

/// An entry of a listing: something at a key, or a common prefix.
pub(super) enum Entry<T> {
    At(T),
    Prefix(String),
}

/// Which part of a listing is asked for.
pub(super) struct Window<'q> {
    pub prefix: &'q str,
    pub delimiter: Option<&'q str>,
    /// Common prefixes up to this string are left out; the caller leaves out the keys.
    pub after: Option<&'q str>,
    pub limit: usize,
}

/// Takes the first entries of `ordered`, and says whether more follow. A limit of zero takes
/// nothing and says that nothing follows, as S3 answers.
pub(super) fn page<'k, T>(
    ordered: impl Iterator<Item = (&'k ObjectKey, T)>,
    window: &Window<'_>,
) -> (Vec<Entry<T>>, bool) {
    let limit = window.limit.min(MAX_PAGE);
    let mut entries: Vec<Entry<T>> = Vec::new();
    for (key, item) in ordered {
        let Some(rest) = key.as_str().strip_prefix(window.prefix) else {
            continue;
        };
        let entry = match common_prefix(rest, window) {
            Some(prefix) => {
                let shown = matches!(entries.last(), Some(Entry::Prefix(last)) if *last == prefix);
                if shown || window.after.is_some_and(|after| prefix.as_str() <= after) {
                    continue;
                }
                Entry::Prefix(prefix)
            }
            None => Entry::At(item),
        };
        if entries.len() == limit {
            return (entries, limit > 0);
        }
        entries.push(entry);
    }
    (entries, false)
}

fn common_prefix(rest: &str, window: &Window<'_>) -> Option<String> {
    let delimiter = window.delimiter?;
    assert!(!delimiter.is_empty(), "a delimiter is never empty");
    let end = rest.find(delimiter)? + delimiter.len();
    Some(format!("{}{}", window.prefix, &rest[..end]))
}
