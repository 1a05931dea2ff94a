//! Key ⇄ path: where on disk an object stands, and which key a path stands for. Pure, total,
//! injective and reversible; knows no disk.
//!
//! A volume's root holds one directory per bucket and the directory [`RESERVED`].
//!
//! 1. A key that is a relative path of components of 1 to 255 bytes, none of them `.` or `..`,
//!    without NUL, is *plain*: it stands at `<bucket>/<key>`, byte for byte.
//! 2. A key ending in `/` whose rest is plain is a *directory marker*: the directory
//!    `<bucket>/<rest>` carries it in its record; a body stands at the escaped path of the key.
//! 3. Any other key is *escaped*: `.portico/keys/<bucket>/<escaped path>`. The escaped path of a
//!    plain key is its shelter while a directory of the same name stands at its path.
//!
//! The escaped path percent-encodes (`%XX`, upper case) every byte outside `[A-Za-z0-9._-]` and a
//! leading dot, then cuts the text into chunks of at most [`CHUNK_LEN_BYTES`], never inside a
//! `%XX` and each as long as can be. Every chunk but the last names a directory and ends in `~`,
//! the last names the file and ends in `=`: neither can be `.` or `..`, and no file of one key
//! has the name of a directory of another.

use crate::name::ObjectKey;

/// The directory in a volume's root that holds what is portico's own. No bucket can have this
/// name, because a bucket's name does not begin with a dot.
pub const RESERVED: &str = ".portico";
/// The directory below [`RESERVED`] with one directory per bucket for escaped keys.
pub const KEYS_DIR: &str = "keys";
/// Longest component of a path, in bytes. Source: NAME_MAX, limits.h(0p).
pub const MAX_COMPONENT_LEN_BYTES: usize = 255;
/// Longest piece of an escaped key in one component, in bytes, without its suffix.
pub const CHUNK_LEN_BYTES: usize = 240;

const DIRECTORY_SUFFIX: u8 = b'~';
const FILE_SUFFIX: u8 = b'=';

/// Where an object with a certain key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'key> {
    /// At this path below the bucket's directory, unless a directory of that name stands there:
    /// then at [`escaped_path`], its shelter.
    Plain(&'key str),
    /// It is the directory at this path below the bucket's directory; a body of one byte or
    /// more stands at [`escaped_path`].
    Marker {
        /// Path of the directory, without the key's last slash.
        dir: &'key str,
    },
    /// At [`escaped_path`] only.
    Escaped,
}

/// Where the object with this key stands.
pub fn place(key: &ObjectKey) -> Place<'_> {
    let key = key.as_str();
    if is_plain(key) {
        return Place::Plain(key);
    }
    match key.strip_suffix('/') {
        Some(dir) if is_plain(dir) => Place::Marker { dir },
        _ => Place::Escaped,
    }
}

/// The escaped path of a key, relative to `.portico/keys/<bucket>`. Its components are at most
/// 243 bytes long; there are at most 13 of them.
pub fn escaped_path(key: &ObjectKey) -> String {
    let bytes = key.as_str().as_bytes();
    let mut path = String::with_capacity(bytes.len() + 1);
    let mut chunk_len = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        let stays = is_unreserved(byte) && !(index == 0 && byte == b'.');
        let width = if stays { 1 } else { 3 };
        if chunk_len + width > CHUNK_LEN_BYTES {
            path.push(DIRECTORY_SUFFIX as char);
            path.push('/');
            chunk_len = 0;
        }
        if stays {
            path.push(byte as char);
        } else {
            push_percent(&mut path, byte);
        }
        chunk_len += width;
    }
    path.push(FILE_SUFFIX as char);
    path
}

/// The key that has this escaped path (relative to `.portico/keys/<bucket>`); none where no key
/// has it. `decode_escaped(p) == Some(k)` means `escaped_path(k) == p`.
pub fn decode_escaped(path: &str) -> Option<ObjectKey> {
    let text = path.strip_suffix(FILE_SUFFIX as char)?;
    let mut encoded = text.bytes();
    let mut key = Vec::with_capacity(text.len());
    while let Some(byte) = encoded.next() {
        match byte {
            b'%' => key.push(hex_value(encoded.next()?)? << 4 | hex_value(encoded.next()?)?),
            DIRECTORY_SUFFIX if encoded.next() == Some(b'/') => {}
            byte if is_unreserved(byte) => key.push(byte),
            _ => return None,
        }
    }
    let key = ObjectKey::parse(std::str::from_utf8(&key).ok()?).ok()?;
    // What was taken above may still be cut or encoded in another way than ours.
    (escaped_path(&key) == path).then_some(key)
}

/// The plain key that stands at this path below the bucket's directory (no leading slash); none
/// where no key does: not UTF-8, or longer than a key can be.
pub fn key_of_plain(path: &[u8]) -> Option<ObjectKey> {
    let text = std::str::from_utf8(path).ok()?;
    if !is_plain(text) {
        return None;
    }
    ObjectKey::parse(text).ok()
}

/// The key of the marker that this directory below the bucket's directory can carry; none where
/// no key does.
pub fn key_of_marker(dir: &[u8]) -> Option<ObjectKey> {
    let text = std::str::from_utf8(dir).ok()?;
    if !is_plain(text) {
        return None;
    }
    ObjectKey::parse(&format!("{text}/")).ok()
}

/// The directories above a plain path, outermost first: `a` and `a/b` for `a/b/c`. Each is
/// itself a plain key that is sheltered while the path stands.
pub fn directories_above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}

/// The directory below the bucket's that a prefix of keys leads into: its leading directories, as
/// far as they are plain; none where that is the bucket's own.
pub fn directory_of_prefix(prefix: &str) -> Option<&str> {
    let mut end = None;
    for (slash, _) in prefix.match_indices('/') {
        if !is_plain(&prefix[end.map_or(0, |end| end + 1)..slash]) {
            break;
        }
        end = Some(slash);
    }
    end.map(|end| &prefix[..end])
}

fn is_plain(path: &str) -> bool {
    path.split('/').all(|component| {
        !matches!(component, "" | "." | "..")
            && component.len() <= MAX_COMPONENT_LEN_BYTES
            && !component.as_bytes().contains(&0)
    })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn push_percent(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(DIGITS[usize::from(byte >> 4)] as char);
    out.push(DIGITS[usize::from(byte & 15)] as char);
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
    use proptest::sample::select;

    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::parse(text).unwrap()
    }

    #[test]
    fn an_ordinary_key_is_its_own_path() {
        for plain in [
            "a",
            "a/b",
            ".hidden/x",
            "é/ü",
            "a b",
            "%41",
            "x=",
            "y~",
            ".portico/k",
            "...",
        ] {
            assert_eq!(place(&key(plain)), Place::Plain(plain));
            assert_eq!(key_of_plain(plain.as_bytes()), Some(key(plain)));
        }
        let longest = "x".repeat(255);
        assert_eq!(place(&key(&longest)), Place::Plain(&longest));
    }

    #[test]
    fn a_key_that_is_no_path_is_escaped() {
        let long = "x".repeat(256);
        for awkward in [
            "/", "//", "/a", "a//b", "a//", ".", "..", "./x", "../x", "a/../b", "a/./", "a\0",
            &long,
        ] {
            assert_eq!(place(&key(awkward)), Place::Escaped, "{awkward:?}");
            assert_eq!(key_of_plain(awkward.as_bytes()), None, "{awkward:?}");
        }
    }

    #[test]
    fn a_trailing_slash_is_a_directory_marker() {
        assert_eq!(place(&key("a/b/")), Place::Marker { dir: "a/b" });
        assert_eq!(key_of_marker(b"a/b"), Some(key("a/b/")));
        assert_eq!(key_of_marker(b"a/"), None);
        assert_eq!(
            key_of_marker("x/".repeat(512).trim_end_matches('/').as_bytes())
                .map(|k| k.as_str().len()),
            Some(1024)
        );
    }

    #[test]
    fn a_prefix_leads_into_its_plain_directories() {
        for (prefix, dir) in [
            ("", None),
            ("a", None),
            ("a/", Some("a")),
            ("a/b", Some("a")),
            ("a/b/c", Some("a/b")),
            ("a//b/c", Some("a")),
            ("/a/b", None),
            ("../a", None),
            ("a/../b", Some("a")),
        ] {
            assert_eq!(directory_of_prefix(prefix), dir, "{prefix:?}");
        }
    }

    #[test]
    fn a_path_that_is_no_key_has_none() {
        assert_eq!(key_of_plain(b"\xff"), None);
        assert_eq!(key_of_plain(b""), None);
        assert_eq!(
            key_of_plain("x/".repeat(600).trim_end_matches('/').as_bytes()),
            None
        );
    }

    #[test]
    fn escaped_paths_are_as_documented() {
        assert_eq!(escaped_path(&key("a")), "a=");
        assert_eq!(escaped_path(&key("a/")), "a%2F=");
        assert_eq!(escaped_path(&key("..")), "%2E.=");
        assert_eq!(escaped_path(&key("x~=é")), "x%7E%3D%C3%A9=");
        assert_eq!(
            escaped_path(&key(&"x".repeat(240))),
            format!("{}=", "x".repeat(240))
        );
        assert_eq!(
            escaped_path(&key(&"x".repeat(241))),
            format!("{}~/x=", "x".repeat(240))
        );
        // A %XX that would be cut begins the next chunk.
        let text = format!("{}/", "x".repeat(238));
        assert_eq!(
            escaped_path(&key(&text)),
            format!("{}~/%2F=", "x".repeat(238))
        );
    }

    #[test]
    fn only_our_own_escape_is_decoded() {
        for foreign in [
            "", "=", "a", "a~", "%2f=", "%61=", ".=", "a~/b=", "a/b=", "%2=", "%=", "%FF=", "a~",
            "~/a=", "a==",
        ] {
            assert_eq!(decode_escaped(foreign), None, "{foreign:?}");
        }
        let badly_cut = format!("{}~/{}=", "x".repeat(239), "x".repeat(2));
        assert_eq!(decode_escaped(&badly_cut), None);
    }

    #[test]
    fn directories_above_a_path_are_its_prefixes() {
        assert_eq!(directories_above("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(directories_above("a").count(), 0);
    }

    /// Keys made of the pieces that matter here, up to the longest.
    fn keys() -> impl Strategy<Value = ObjectKey> {
        let piece = select(vec![
            "/",
            ".",
            "..",
            "a",
            "b",
            "~",
            "=",
            "%",
            "%2F",
            "é",
            "\0",
            "\n",
            "A",
            "=/",
            "~/",
            "0123456789012345678901234567890123456789",
        ]);
        let made = vec(piece, 1..60).prop_map(|pieces| pieces.concat());
        let free = vec(any::<char>(), 1..400).prop_map(|chars| chars.into_iter().collect());
        proptest::prop_oneof![made, free].prop_map(|mut text: String| {
            while text.len() > crate::name::MAX_KEY_LEN_BYTES {
                text.pop();
            }
            key(&text)
        })
    }

    fn whole_path(key: &ObjectKey) -> String {
        match place(key) {
            Place::Plain(path) => format!("bucket/{path}"),
            Place::Marker { dir } => format!("bucket/{dir} (its record)"),
            Place::Escaped => format!(".portico/keys/bucket/{}", escaped_path(key)),
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_escape(key in keys()) {
            prop_assert_eq!(decode_escaped(&escaped_path(&key)), Some(key));
        }

        #[test]
        fn every_component_is_one_file_name(key in keys()) {
            let path = escaped_path(&key);
            let components: Vec<&str> = path.split('/').collect();
            prop_assert!(components.len() <= 13);
            for (index, component) in components.iter().enumerate() {
                let suffix = if index + 1 == components.len() { '=' } else { '~' };
                prop_assert!(component.ends_with(suffix), "{}", path);
                prop_assert!(component.len() > 1 && component.len() <= MAX_COMPONENT_LEN_BYTES);
                prop_assert!(*component != "." && *component != "..");
                prop_assert!(component.bytes().all(|b| b.is_ascii_graphic()));
            }
        }

        #[test]
        fn every_key_comes_back_from_its_place(key in keys()) {
            match place(&key) {
                Place::Plain(path) => prop_assert_eq!(key_of_plain(path.as_bytes()), Some(key.clone())),
                Place::Marker { dir } => prop_assert_eq!(key_of_marker(dir.as_bytes()), Some(key.clone())),
                Place::Escaped => {}
            }
        }

        #[test]
        fn different_keys_have_different_places(some in vec(keys(), 2..20)) {
            let distinct: BTreeSet<_> = some.into_iter().collect();
            let paths: BTreeSet<_> = distinct.iter().map(whole_path).collect();
            let shelters: BTreeSet<_> = distinct.iter().map(escaped_path).collect();
            prop_assert_eq!(paths.len(), distinct.len());
            prop_assert_eq!(shelters.len(), distinct.len());
        }

        #[test]
        fn no_chunk_directory_is_a_file_of_another_key(some in vec(keys(), 2..20)) {
            let files: BTreeSet<String> = some.iter().map(escaped_path).collect();
            for path in &files {
                for directory in directories_above(path) {
                    prop_assert!(!files.contains(directory));
                }
            }
        }

        #[test]
        fn decoding_is_total_and_canonical(
            path in vec(select(vec!["a", "%", "2", "F", "%2F", "~", "~/", "/", "=", ".", "é"]), 0..30)
        ) {
            let path = path.concat();
            if let Some(key) = decode_escaped(&path) {
                prop_assert_eq!(escaped_path(&key), path);
            }
        }

        #[test]
        fn any_bytes_are_a_plain_key_or_none(path in vec(any::<u8>(), 0..80)) {
            if let Some(key) = key_of_plain(&path) {
                prop_assert_eq!(place(&key), Place::Plain(key.as_str()));
                prop_assert_eq!(key.as_str().as_bytes(), &path[..]);
            }
        }
    }
}
