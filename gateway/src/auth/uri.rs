//! Paths, queries and hosts as signatures see them.

use std::borrow::Cow;

use http::request::Parts;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// RFC 3986 unreserved characters: what signatures never percent-encode.
const fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

fn push_encoded(out: &mut Vec<u8>, b: u8) {
    if is_unreserved(b) {
        out.push(b);
    } else {
        out.extend([b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    }
}

fn hex_value(b: u8) -> Option<u8> {
    (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// The bytes of percent-encoded text. A `%` that begins no escape stands for itself.
struct Decoder<'a> {
    text: &'a [u8],
    /// Whether `+` is a space, as it is in queries.
    plus_is_space: bool,
}

impl Iterator for Decoder<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.text.split_first()?;
        if first == b'%'
            && let [high, low, ..] = rest
            && let (Some(high), Some(low)) = (hex_value(*high), hex_value(*low))
        {
            self.text = &rest[2..];
            return Some(high << 4 | low);
        }
        self.text = rest;
        Some(if first == b'+' && self.plus_is_space {
            b' '
        } else {
            first
        })
    }
}

/// Appends a path in canonical form: decoded once and encoded once, slashes kept. Source: S3 API,
/// "Authenticating Requests: Using the Authorization Header", UriEncode().
pub(super) fn push_canonical_path(out: &mut Vec<u8>, path: &str) {
    let decoder = Decoder {
        text: path.as_bytes(),
        plus_is_space: false,
    };
    for b in decoder {
        if b == b'/' {
            out.push(b);
        } else {
            push_encoded(out, b);
        }
    }
}

/// Appends a query in canonical form, sorted by encoded name and value, without the parameter
/// `skip`. Source: the same.
pub(super) fn push_canonical_query(out: &mut Vec<u8>, query: &str, skip: Option<&str>) {
    let mut encoded = Vec::with_capacity(query.len() + 16);
    // Ends of name and value of each parameter in `encoded`.
    let mut parameters: Vec<(usize, usize, usize)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if skip == Some(name) {
            continue;
        }
        let begin = encoded.len();
        for part in [name, value] {
            let decoder = Decoder {
                text: part.as_bytes(),
                plus_is_space: true,
            };
            for b in decoder {
                push_encoded(&mut encoded, b);
            }
            parameters.push((begin, encoded.len(), 0));
        }
        if let (Some((_, end, _)), Some(named)) = (parameters.pop(), parameters.last_mut()) {
            named.2 = end;
        }
    }
    let name = |p: &(usize, usize, usize)| &encoded[p.0..p.1];
    let value = |p: &(usize, usize, usize)| &encoded[p.1..p.2];
    parameters.sort_unstable_by(|a, b| (name(a), value(a)).cmp(&(name(b), value(b))));
    for (index, parameter) in parameters.iter().enumerate() {
        if index > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name(parameter));
        out.push(b'=');
        out.extend_from_slice(value(parameter));
    }
}

/// The decoded value of a query's first parameter of this name, which must not be encoded.
pub(super) fn query_value<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (found == name).then(|| decode_value(value))
    })
}

/// True where a query has a parameter of this name.
pub(super) fn has_parameter(query: &str, name: &str) -> bool {
    query
        .split('&')
        .any(|pair| pair.split_once('=').map_or(pair, |(found, _)| found) == name)
}

/// Percent-decodes a query's name or value; what is not UTF-8 becomes U+FFFD.
pub(super) fn decode_value(value: &str) -> Cow<'_, str> {
    if !value.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(value);
    }
    let bytes: Vec<u8> = Decoder {
        text: value.as_bytes(),
        plus_is_space: true,
    }
    .collect();
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The host that a request names, with its port: the Host header, or HTTP/2's authority.
pub fn host_of(parts: &Parts) -> Option<&str> {
    let header = parts.headers.get(http::header::HOST);
    match header {
        Some(value) => value.to_str().ok(),
        None => parts.uri.authority().map(http::uri::Authority::as_str),
    }
}

/// The bucket of a virtual-host request: what stands before one of `domains`, in lower case. A
/// host that is a domain names no bucket; where several domains fit, the longest does.
pub fn bucket_of_host(host: &str, domains: &[String]) -> Option<String> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    if domains.is_empty() {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if domains.iter().any(|domain| domain == name) {
        return None;
    }
    domains
        .iter()
        .filter_map(|domain| name.strip_suffix(domain.as_str())?.strip_suffix('.'))
        .filter(|bucket| !bucket.is_empty())
        .min_by_key(|bucket| bucket.len())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> String {
        let mut out = Vec::new();
        push_canonical_path(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    fn query(text: &str) -> String {
        let mut out = Vec::new();
        push_canonical_query(&mut out, text, Some("X-Amz-Signature"));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_path_is_encoded_once() {
        assert_eq!(path("/a/b%20c"), "/a/b%20c");
        assert_eq!(path("/test%24file.text"), "/test%24file.text");
        assert_eq!(path("/a//b/../c(1)+%2b"), "/a//b/../c%281%29%2B%2B");
        assert_eq!(path("/%e2%82%ac%zz%"), "/%E2%82%AC%25zz%25");
    }

    #[test]
    fn a_query_is_sorted_by_name_then_value() {
        assert_eq!(query("prefix=J&max-keys=2"), "max-keys=2&prefix=J");
        assert_eq!(query("lifecycle"), "lifecycle=");
        assert_eq!(query("b=2&a=2&a=1&&a"), "a=&a=1&a=2&b=2");
        assert_eq!(query("a-b=1&a=2"), "a=2&a-b=1");
        assert_eq!(query("k=a+b%2fc/d"), "k=a%20b%2Fc%2Fd");
        assert_eq!(query("X-Amz-Signature=1&x=1=2"), "x=1%3D2");
    }

    #[test]
    fn a_value_is_decoded() {
        let found = query_value("a=1&X-Amz-Credential=A%2F2&b", "X-Amz-Credential");
        assert_eq!(found.unwrap(), "A/2");
        assert_eq!(query_value("a=1&b", "b").unwrap(), "");
        assert!(query_value("a=1", "c").is_none());
    }

    #[test]
    fn a_bucket_stands_before_the_domain() {
        let domains = ["s3.example.com".to_owned()];
        let of = |host: &str| bucket_of_host(host, &domains);
        assert_eq!(of("b.s3.example.com").as_deref(), Some("b"));
        assert_eq!(of("B.c.S3.example.com:9000").as_deref(), Some("b.c"));
        assert_eq!(of("s3.example.com"), None);
        assert_eq!(of(".s3.example.com"), None);
        assert_eq!(of("bs3.example.com"), None);
        assert_eq!(of("[::1]:9000"), None);
        let nested = ["example.com".to_owned(), "s3.example.com".to_owned()];
        assert_eq!(bucket_of_host("s3.example.com", &nested), None);
        let found = bucket_of_host("b.s3.example.com.", &nested);
        assert_eq!(found.as_deref(), Some("b"));
    }
}
