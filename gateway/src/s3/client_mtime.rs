//! The modification time of the file that a client uploads, where its metadata say it.
//!
//! Sources: rclone, s3 backend, "Modification time" (`mtime`, seconds since 1970 with a fraction);
//! s3fs-fuse (`mtime`, the same, without one in older versions); s3cmd, `--preserve`
//! (`s3cmd-attrs`, `name:value` pairs parted by `/`, `mtime` in seconds).

use std::collections::BTreeMap;

use fsstore::object::Timestamp;

/// Digits of a nanosecond.
const NANO_DIGITS: usize = 9;

/// The time that metadata carry; what cannot be read as one counts as absent.
pub fn client_mtime(user: &BTreeMap<String, String>) -> Option<Timestamp> {
    let plain = user.get("mtime").and_then(|text| timestamp(text));
    plain.or_else(|| {
        let pairs = user.get("s3cmd-attrs")?.split('/');
        timestamp(pairs.into_iter().find_map(|p| p.strip_prefix("mtime:"))?)
    })
}

/// Seconds since 1970 in decimal; digits beyond the nanosecond are passed over.
fn timestamp(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let (is_before, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (secs, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(secs) || !is_number(fraction) {
        return None;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0'));
    let nanos = digits
        .take(NANO_DIGITS)
        .fold(0, |nanos, digit| nanos * 10 + i64::from(digit - b'0'));
    let secs: i64 = secs.parse().ok()?;
    let since_ns = secs.checked_mul(1_000_000_000)?.checked_add(nanos)?;
    Some(Timestamp(if is_before { -since_ns } else { since_ns }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Option<i64> {
        let user = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        client_mtime(&user).map(|time| time.0)
    }

    #[test]
    fn each_clients_own_form_is_read() {
        assert_eq!(
            of("mtime", "1500000000.123456789"),
            Some(1_500_000_000_123_456_789)
        );
        assert_eq!(of("mtime", "1500000000"), Some(1_500_000_000_000_000_000));
        assert_eq!(of("mtime", "1500000000.5"), Some(1_500_000_000_500_000_000));
        assert_eq!(of("mtime", "1.0000000019"), Some(1_000_000_001));
        assert_eq!(of("mtime", "-1.5"), Some(-1_500_000_000));
        let attrs = "atime:1500000002/ctime:1500000001/gid:0/gname:root/md5:00/mode:33188/\
                     mtime:1500000000/uid:0/uname:root";
        assert_eq!(of("s3cmd-attrs", attrs), Some(1_500_000_000_000_000_000));
    }

    #[test]
    fn nonsense_is_no_time() {
        let milliseconds = "1500000000123456";
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "-",
            "--1",
            "+1",
            "1e9",
            "now",
            "1,5",
            milliseconds,
        ] {
            assert_eq!(of("mtime", text), None, "{text}");
        }
        for text in ["mtime:", "mtime:x", "ctime:1", "xmtime:1", ""] {
            assert_eq!(of("s3cmd-attrs", text), None, "{text}");
        }
        assert_eq!(of("mtime-of-mine", "1500000000"), None);
    }
}
