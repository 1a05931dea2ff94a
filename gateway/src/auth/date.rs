//! The times that signed requests name: `20130524T000000Z` and HTTP dates.

use fsstore::object::Timestamp;

/// Length of `20130524T000000Z`.
const ISO_LEN: usize = 16;
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Days since 1970-01-01 of a date of the Gregorian calendar. Source: Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn is_day_of(year: i64, month: i64, day: i64) -> bool {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let len = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=len).contains(&day)
}

fn from_fields(date: (i64, i64, i64), clock: (i64, i64, i64)) -> Option<Timestamp> {
    let (year, month, day) = date;
    let (hour, minute, second) = clock;
    if !is_day_of(year, month, day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    // A year of four digits is beyond what nanoseconds in 64 bits can say only after 2262.
    let secs = days * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Timestamp::from_secs(secs))
}

/// Digits only: no sign, no space.
fn number(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() > 6 {
        return None;
    }
    text.iter().try_fold(0, |sum, b| {
        b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0'))
    })
}

/// The time of `20130524T000000Z`.
pub(super) fn parse_iso(text: &str) -> Option<Timestamp> {
    let t = text.as_bytes();
    if t.len() != ISO_LEN || t[8] != b'T' || t[15] != b'Z' {
        return None;
    }
    from_fields(
        (number(&t[..4])?, number(&t[4..6])?, number(&t[6..8])?),
        (number(&t[9..11])?, number(&t[11..13])?, number(&t[13..15])?),
    )
}

/// Midnight of `20130524`.
pub(super) fn parse_day(text: &str) -> Option<Timestamp> {
    let t = text.as_bytes();
    if t.len() != 8 {
        return None;
    }
    from_fields(
        (number(&t[..4])?, number(&t[4..6])?, number(&t[6..8])?),
        (0, 0, 0),
    )
}

/// The time of an HTTP date (`Tue, 27 Mar 2007 19:36:42 GMT`, also with `+0000`), or of the form
/// above. The name of the weekday is not looked at: clients get it wrong.
pub(super) fn parse_any(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Some(time) = parse_iso(text) {
        return Some(time);
    }
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let day = number(words.next()?.as_bytes())?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(name))?;
    let year = number(words.next()?.as_bytes())?;
    let mut clock = words.next()?.split(':').map(|part| number(part.as_bytes()));
    let clock = (clock.next()??, clock.next()??, clock.next()??);
    match words.next() {
        Some("GMT" | "UTC" | "+0000" | "-0000") if words.next().is_none() => {}
        _ => return None,
    }
    from_fields((year, i64::try_from(month).ok()? + 1, day), clock)
}

/// The time of `2013-05-24T00:00:00.000Z` (with or without a fraction), as policies name it.
pub(super) fn parse_rfc3339_utc(text: &str) -> Option<Timestamp> {
    let t = text.strip_suffix('Z')?.as_bytes();
    if t.len() < 19 || !t.is_ascii() || [t[4], t[7], t[10], t[13], t[16]] != *b"--T::" {
        return None;
    }
    if t.len() > 19 && (t[19] != b'.' || !t[20..].iter().all(u8::is_ascii_digit)) {
        return None;
    }
    from_fields(
        (number(&t[..4])?, number(&t[5..7])?, number(&t[8..10])?),
        (
            number(&t[11..13])?,
            number(&t[14..16])?,
            number(&t[17..19])?,
        ),
    )
}

/// `20130524T000000Z` of a time.
pub(super) fn format_iso(time: Timestamp) -> String {
    let secs = time.secs();
    let days = secs.div_euclid(86_400);
    let clock = secs.rem_euclid(86_400);
    // civil_from_days, of the same source.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (clock / 3_600, clock / 60 % 60, clock % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, proptest};

    #[test]
    fn known_times_are_read() {
        let time = Timestamp::from_secs(1_369_353_600);
        assert_eq!(parse_iso("20130524T000000Z"), Some(time));
        assert_eq!(parse_day("20130524"), Some(time));
        assert_eq!(parse_any("Fri, 24 May 2013 00:00:00 GMT"), Some(time));
        assert_eq!(parse_any("Mon, 24 May 2013 00:00:00 +0000"), Some(time));
        assert_eq!(parse_rfc3339_utc("2013-05-24T00:00:00.000Z"), Some(time));
        assert_eq!(parse_rfc3339_utc("2013-05-24T00:00:00Z"), Some(time));
    }

    #[test]
    fn other_texts_are_no_times() {
        for bad in [
            "",
            "Bad Date",
            "20130524T000000",
            "20131324T000000Z",
            "20130230T000000Z",
            "20130524T240000Z",
            "+0130524T000000Z",
            "2013052éT00000Z",
        ] {
            assert_eq!(parse_iso(bad), None, "{bad}");
            assert_eq!(parse_any(bad), None, "{bad}");
            assert_eq!(parse_rfc3339_utc(bad), None, "{bad}");
        }
        assert_eq!(parse_any("Fri, 24 May 2013 00:00:00 CET"), None);
        assert_eq!(parse_rfc3339_utc("2013-05-24T00:00:00,5Z"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn formatting_and_reading_agree(secs in -60_000_000_000i64..9_000_000_000) {
            let time = Timestamp::from_secs(secs.max(-2_000_000_000));
            assert_eq!(parse_iso(&format_iso(time)), Some(time));
        }
    }
}
