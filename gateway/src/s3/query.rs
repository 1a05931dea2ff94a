//! A request's query string, decoded once.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::errors::{S3Code, S3Error};

/// Most parameters a query may have.
pub const MAX_PARAMETERS: usize = 200;

/// Decoded parameters in the order they came. A `+` is a space here, unlike in paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, Option<String>)>);

impl Query {
    /// Decodes a query string. Errors: InvalidURI where an escape is broken or the text is not
    /// UTF-8, or where there are more than [`MAX_PARAMETERS`].
    pub fn parse(query: Option<&str>) -> Result<Self, S3Error> {
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return Ok(Self::default());
        };
        let mut pairs = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            if pairs.len() == MAX_PARAMETERS {
                return Err(S3Code::InvalidURI.with("The query has too many parameters."));
            }
            pairs.push(match part.split_once('=') {
                Some((name, value)) => (decode_parameter(name)?, Some(decode_parameter(value)?)),
                None => (decode_parameter(part)?, None),
            });
        }
        Ok(Self(pairs))
    }

    /// True where the parameter is there, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// The first value of a parameter; empty where it stands without `=`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_deref().unwrap_or_default())
    }

    /// As [`Query::get`], but none where the value is empty.
    pub fn get_nonempty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Every parameter, in order; the value is none where it stands without `=`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_deref()))
    }
}

fn decode_parameter(text: &str) -> Result<String, S3Error> {
    let spaced: Cow<'_, str> = if text.contains('+') {
        text.replace('+', " ").into()
    } else {
        text.into()
    };
    percent_decode(&spaced)
}

/// Undoes percent-encoding, and nothing else. Errors: InvalidURI for a broken escape or bytes
/// that are not UTF-8.
pub fn percent_decode(text: &str) -> Result<String, S3Error> {
    let refuse = || S3Error::from(S3Code::InvalidURI).field("URI", text);
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let bytes = text.as_bytes();
    let broken = (0..bytes.len()).any(|i| {
        bytes[i] == b'%'
            && !(bytes.get(i + 1).is_some_and(u8::is_ascii_hexdigit)
                && bytes.get(i + 2).is_some_and(u8::is_ascii_hexdigit))
    });
    if broken {
        return Err(refuse());
    }
    percent_decode_str(text)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plus_is_a_space_and_names_may_stand_alone() {
        let query = Query::parse(Some("acl&prefix=a+b%2B&max-keys=&x=1&x=2")).unwrap();
        assert!(query.has("acl"));
        assert_eq!(query.get("acl"), Some(""));
        assert_eq!(query.get("prefix"), Some("a b+"));
        assert_eq!(query.get_nonempty("max-keys"), None);
        assert_eq!(query.get("x"), Some("1"));
        assert_eq!(query.get("y"), None);
    }

    #[test]
    fn broken_escapes_and_foreign_bytes_are_refused() {
        for bad in ["a=%", "a=%2", "a=%zz", "%ff=1", "a=%c3"] {
            let error = Query::parse(Some(bad)).unwrap_err();
            assert_eq!(error.code(), S3Code::InvalidURI, "{bad}");
        }
    }

    #[test]
    fn the_number_of_parameters_is_bounded() {
        let many = "a&".repeat(MAX_PARAMETERS + 1);
        assert!(Query::parse(Some(&many)).is_err());
    }
}
