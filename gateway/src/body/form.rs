//! multipart/form-data of a POST: fields up to the file, then the file's bytes as a stream.
//!
//! What follows the file is not looked at, as S3 does. Source: RFC 7578; S3 API, "POST Object".

use bytes::{Bytes, BytesMut};
use fsstore::object::{DigestAlgorithm, DigestSet};
use fsstore::volume::MAX_PUT_LEN_BYTES;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::expected::Stated;
use super::{BodyError, BoxError, Expected, poll_data};

/// Most bytes of everything before the file.
const MAX_FIELDS_LEN_BYTES: usize = 64 << 10;
/// Most fields before the file.
const MAX_FIELDS: usize = 200;
/// Longest boundary. Source: RFC 2046, section 5.1.1.
const MAX_BOUNDARY_LEN_BYTES: usize = 70;

/// Fields that mean nothing to S3, and may be repeated. Source: S3 API, "POST Policy".
const IGNORED_PREFIX: &str = "x-ignore-";

/// The fields before the file, by lower-case name: browsers and tools differ in case.
#[derive(Debug, Clone, Default)]
pub struct FormFields {
    fields: Vec<(String, String)>,
    file_name: String,
}

impl FormFields {
    /// Fields made by hand, for tests and tools.
    pub fn new(fields: Vec<(String, String)>, file_name: &str) -> Self {
        let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
        Self {
            fields: fields.into_iter().map(lower).collect(),
            file_name: file_name.to_owned(),
        }
    }

    /// The value of a field, by its name in lower case; the first where it is repeated.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// All fields in the order they came, names in lower case.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// A field's value with `${filename}` replaced by the file's name, without directories.
    pub fn get_expanded(&self, name: &str) -> Option<String> {
        let file_name = self.file_name.rsplit(['/', '\\']).next().unwrap_or("");
        self.get(name)
            .map(|value| value.replace("${filename}", file_name))
    }

    /// The fields that name headers (`x-amz-*`, `content-*`, `cache-control`, `expires`), as if
    /// they had been sent as such; values that no header can carry are left out.
    pub fn to_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in self.iter() {
            let is_header = name.starts_with("x-amz-")
                || name.starts_with("content-")
                || matches!(name, "cache-control" | "expires");
            let is_own = matches!(
                name,
                "x-amz-signature" | "x-amz-credential" | "x-amz-algorithm" | "x-amz-date"
            );
            if is_header
                && !is_own
                && let Ok(name) = HeaderName::from_bytes(name.as_bytes())
                && let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
            {
                headers.append(name, value);
            }
        }
        headers
    }
}

/// A form up to its file.
pub struct PostForm<B> {
    /// The fields.
    pub fields: FormFields,
    /// The file, still to be read.
    pub file: FileBody<B>,
}

/// The bytes of a form's file.
pub struct FileBody<B> {
    scanner: Scanner<B>,
    stated: Option<Stated>,
    min_bytes: u64,
    max_bytes: u64,
    seen_bytes: u64,
    is_ended: bool,
}

/// Reads a form's fields; the file is left to be read. Errors: MalformedForm, FormFieldsTooLarge,
/// IncorrectNumberOfFiles, IncompleteBody, Transport.
pub async fn read_form<B>(body: B, headers: &HeaderMap) -> Result<PostForm<B>, BodyError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let content_type = headers.get(http::header::CONTENT_TYPE);
    let boundary = content_type
        .and_then(|value| value.to_str().ok())
        .and_then(boundary_of)
        .ok_or(BodyError::MalformedForm("no multipart boundary"))?;
    let mut scanner = Scanner {
        body,
        // The first boundary may stand at the very beginning.
        input: Bytes::from_static(b"\r\n"),
        delimiter: format!("\r\n--{boundary}").into_bytes(),
        fields_left_bytes: MAX_FIELDS_LEN_BYTES,
    };
    scanner.read_until_delimiter().await?;
    let mut fields = FormFields::default();
    loop {
        if scanner.is_last_delimiter().await? {
            return Err(BodyError::IncorrectNumberOfFiles);
        }
        let head = scanner.read_until(b"\r\n\r\n").await?;
        let part = PartHead::parse(&head)?;
        if part.name == "file" {
            fields.file_name = part.file_name;
            return Ok(PostForm {
                fields,
                file: FileBody::new(scanner),
            });
        }
        let value = scanner.read_until_delimiter().await?;
        let value = String::from_utf8(value.to_vec())
            .map_err(|_| BodyError::MalformedForm("a field is not UTF-8"))?;
        if fields.fields.len() == MAX_FIELDS {
            return Err(BodyError::FormFieldsTooLarge);
        }
        // A policy's conditions look at one value, and what acts on the field must not see another.
        if fields.get(&part.name).is_some() && !part.name.starts_with(IGNORED_PREFIX) {
            return Err(BodyError::MalformedForm("a field is given twice"));
        }
        fields.fields.push((part.name, value));
    }
}

/// The boundary of a multipart/form-data content type.
fn boundary_of(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_it = name.trim().eq_ignore_ascii_case("boundary");
        is_it.then(|| value.trim().trim_matches('"'))
    })?;
    let lens = 1..=MAX_BOUNDARY_LEN_BYTES;
    (lens.contains(&boundary.len()) && boundary.bytes().all(|b| (b' '..=b'~').contains(&b)))
        .then_some(boundary)
}

/// What a part's headers say.
struct PartHead {
    name: String,
    file_name: String,
}

impl PartHead {
    fn parse(head: &[u8]) -> Result<Self, BodyError> {
        let malformed = || BodyError::MalformedForm("a part has no name");
        let head = String::from_utf8_lossy(head);
        let disposition = head
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
            .map(|(_, value)| value)
            .ok_or_else(malformed)?;
        Ok(Self {
            name: parameter(disposition, "name")
                .ok_or_else(malformed)?
                .to_ascii_lowercase(),
            file_name: parameter(disposition, "filename").unwrap_or_default(),
        })
    }
}

/// A parameter of a Content-Disposition, unquoted.
fn parameter(disposition: &str, name: &str) -> Option<String> {
    let mut rest = disposition;
    while let Some((_, after)) = rest.split_once(';') {
        let (found, value) = after.split_once('=')?;
        let (value, end) = unquote(value.trim_start());
        if found.trim().eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = end;
    }
    None
}

/// A token or quoted string, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return (text[..end].trim_end().to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            // Only quotes are escaped: browsers send paths with plain backslashes.
            '\\' if quoted[at + 1..].starts_with('"') => {
                value.push('"');
                chars.next();
            }
            c => value.push(c),
        }
    }
    (value, "")
}

/// Finds delimiters in a body, holding little more than a frame of it.
struct Scanner<B> {
    body: B,
    input: Bytes,
    /// CRLF, two dashes, the boundary.
    delimiter: Vec<u8>,
    fields_left_bytes: usize,
}

impl<B> Scanner<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    /// Appends the body's next bytes to the input. Errors: IncompleteBody at its end.
    async fn fill(&mut self) -> Result<(), BodyError> {
        let bytes = poll_data(&mut self.body).await?;
        let bytes = bytes.ok_or(BodyError::IncompleteBody)?;
        self.input = if self.input.is_empty() {
            bytes
        } else {
            let mut joined = BytesMut::with_capacity(self.input.len() + bytes.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&bytes);
            joined.freeze()
        };
        Ok(())
    }

    async fn read_until_delimiter(&mut self) -> Result<Bytes, BodyError> {
        let delimiter = self.delimiter.clone();
        self.read_until(&delimiter).await
    }

    /// Takes what stands before `end`, and `end`. Errors: FormFieldsTooLarge, IncompleteBody.
    async fn read_until(&mut self, end: &[u8]) -> Result<Bytes, BodyError> {
        let mut from = 0;
        loop {
            if let Some(at) = find(&self.input[from..], end) {
                let taken = self.input.split_to(from + at);
                let _ = self.input.split_to(end.len());
                let len = taken.len() + end.len();
                self.fields_left_bytes = self
                    .fields_left_bytes
                    .checked_sub(len)
                    .ok_or(BodyError::FormFieldsTooLarge)?;
                return Ok(taken);
            }
            if self.input.len() > self.fields_left_bytes {
                return Err(BodyError::FormFieldsTooLarge);
            }
            from = self.input.len().saturating_sub(end.len() - 1);
            self.fill().await?;
        }
    }

    /// After a delimiter: true where it was the last one.
    async fn is_last_delimiter(&mut self) -> Result<bool, BodyError> {
        while self.input.len() < 2 {
            self.fill().await?;
        }
        match &self.input[..2] {
            b"--" => Ok(true),
            // The line end stays: a part without headers begins with an empty line after it.
            b"\r\n" => Ok(false),
            _ => Err(BodyError::MalformedForm("a boundary's line does not end")),
        }
    }
}

impl<B> FileBody<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    fn new(scanner: Scanner<B>) -> Self {
        Self {
            scanner,
            stated: None,
            min_bytes: 0,
            max_bytes: MAX_PUT_LEN_BYTES,
            seen_bytes: 0,
            is_ended: false,
        }
    }

    /// Says what the bytes must have: digests named by fields ([`FormFields::to_headers`]), and
    /// lengths of a policy's content-length-range. Errors: InvalidDigest, InvalidRequest.
    pub fn expect(
        &mut self,
        headers: &HeaderMap,
        len_range_bytes: Option<(u64, u64)>,
    ) -> Result<(), BodyError> {
        self.stated = Some(Stated::read(headers, None, false)?);
        if let Some((min_bytes, max_bytes)) = len_range_bytes {
            self.min_bytes = min_bytes;
            self.max_bytes = max_bytes.min(MAX_PUT_LEN_BYTES);
        }
        Ok(())
    }

    /// Digests that the store must compute, for `StageOptions::digests`.
    pub fn digests(&self) -> DigestSet {
        let stated = self.stated.as_ref();
        stated.map(Stated::digests).unwrap_or_default()
    }

    /// The checksum the client chose.
    pub fn checksum(&self) -> Option<DigestAlgorithm> {
        self.stated.as_ref().and_then(|stated| stated.checksum)
    }

    /// The next bytes of the file, never empty; none at its end. After an error only dropping is
    /// left. Errors: IncompleteBody, Transport, EntityTooLarge, EntityTooSmall.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.is_ended {
            let scanner = &mut self.scanner;
            let delimiter = &scanner.delimiter;
            let len = match find(&scanner.input, delimiter) {
                Some(0) => {
                    self.end()?;
                    continue;
                }
                Some(at) => at,
                None => scanner.input.len() - partial_suffix_len(&scanner.input, delimiter),
            };
            if len == 0 {
                scanner.fill().await?;
                continue;
            }
            let data = scanner.input.split_to(len);
            self.seen_bytes += data.len() as u64;
            if self.seen_bytes > self.max_bytes {
                return Err(BodyError::EntityTooLarge {
                    len_bytes: self.seen_bytes,
                    max_bytes: self.max_bytes,
                });
            }
            return Ok(Some(data));
        }
        Ok(None)
    }

    fn end(&mut self) -> Result<(), BodyError> {
        if self.seen_bytes < self.min_bytes {
            return Err(BodyError::EntityTooSmall {
                len_bytes: self.seen_bytes,
                min_bytes: self.min_bytes,
            });
        }
        self.is_ended = true;
        Ok(())
    }

    /// What the bytes must have, once [`Self::next_chunk`] answered none. Errors:
    /// IncompleteBody where it did not.
    pub fn finish(self) -> Result<Expected, BodyError> {
        if !self.is_ended {
            return Err(BodyError::IncompleteBody);
        }
        Ok(self.stated.map(Stated::into_expected).unwrap_or_default())
    }
}

/// Where `needle` begins in `haystack`; its first byte is CR, which is rare.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|b| *b == needle[0]) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Length of the longest end of `bytes` that may be the beginning of `needle`.
fn partial_suffix_len(bytes: &[u8], needle: &[u8]) -> usize {
    let longest = bytes.len().min(needle.len() - 1);
    (1..=longest)
        .rev()
        .find(|len| needle.starts_with(&bytes[bytes.len() - len..]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
