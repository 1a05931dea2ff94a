//! XML in and out, small and bounded: a writer that escapes, and a parser that makes a tree of
//! a document whose size, depth and number of elements have limits.
//!
//! Knows XML 1.0 and S3's habit of taking documents with or without its namespace; knows none
//! of S3's documents.

use bytes::Bytes;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::errors::{S3Code, S3Error};

/// S3's namespace.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";
/// The namespace of `xsi:type`, which grantees carry.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// Deepest nesting taken.
pub const MAX_DEPTH: usize = 16;
/// Most elements taken in one document: 10,000 parts with a checksum each, and room.
pub const MAX_ELEMENTS: usize = 100_000;

/// Writes a document. Elements must be closed by the caller, in order.
#[derive(Debug)]
pub struct XmlWriter(String);

impl XmlWriter {
    /// Begins a document.
    pub fn document() -> Self {
        let mut text = String::with_capacity(1024);
        text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        Self(text)
    }

    /// Begins a document with a root element in S3's namespace.
    pub fn root(name: &str) -> Self {
        let mut xml = Self::document();
        xml.open_with(name, &[("xmlns", NAMESPACE)]);
        xml
    }

    /// Makes room for so many bytes to come.
    pub fn reserve(&mut self, len_bytes: usize) {
        self.0.reserve(len_bytes);
    }

    /// Opens an element.
    pub fn open(&mut self, name: &str) {
        self.open_with(name, &[]);
    }

    /// Opens an element with attributes.
    pub fn open_with(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.0.push('<');
        self.0.push_str(name);
        for (attribute, value) in attributes {
            self.0.push(' ');
            self.0.push_str(attribute);
            self.0.push_str("=\"");
            escape_into(value, &mut self.0);
            self.0.push('"');
        }
        self.0.push('>');
    }

    /// Closes an element.
    pub fn close(&mut self, name: &str) {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// An element with text.
    pub fn text(&mut self, name: &str, text: &str) {
        self.open(name);
        escape_into(text, &mut self.0);
        self.close(name);
    }

    /// Text in the element that is open.
    pub fn inner_text(&mut self, text: &str) {
        escape_into(text, &mut self.0);
    }

    /// An element with a number.
    pub fn number(&mut self, name: &str, number: u64) {
        self.text(name, &number.to_string());
    }

    /// An element with `true` or `false`.
    pub fn boolean(&mut self, name: &str, value: bool) {
        self.text(name, if value { "true" } else { "false" });
    }

    /// An element with a tag in quotes.
    pub fn etag(&mut self, tag: &str) {
        self.open("ETag");
        self.0.push_str("&quot;");
        escape_into(tag, &mut self.0);
        self.0.push_str("&quot;");
        self.close("ETag");
    }

    /// The document.
    pub fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Whether XML 1.0 can carry a text.
pub fn can_carry(text: &str) -> bool {
    !text.chars().any(is_foreign)
}

/// True for characters that XML 1.0 has no way to write. Source: XML 1.0, production 2 (Char).
fn is_foreign(c: char) -> bool {
    matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Escapes text. Characters that XML 1.0 cannot carry become character references as S3 makes
/// them: a strict parser refuses these, which is what `encoding-type=url` is for.
fn escape_into(text: &str, out: &mut String) {
    let mut plain_from = 0;
    for (at, c) in text.char_indices() {
        let escaped = match c {
            '<' => "&lt;",
            '>' => "&gt;",
            '&' => "&amp;",
            '"' => "&quot;",
            '\r' => "&#13;",
            c if is_foreign(c) => "",
            _ => continue,
        };
        out.push_str(&text[plain_from..at]);
        if escaped.is_empty() {
            out.push_str(&format!("&#x{:x};", c as u32));
        } else {
            out.push_str(escaped);
        }
        plain_from = at + c.len_utf8();
    }
    out.push_str(&text[plain_from..]);
}

/// An element of a parsed document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name without a prefix.
    pub name: String,
    /// Its text, entities resolved; white space around child elements is dropped.
    pub text: String,
    /// Elements in it, in order.
    pub children: Vec<Element>,
    /// Attributes by their names without a prefix, `xmlns` left out.
    pub attributes: Vec<(String, String)>,
}

impl Element {
    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Every child of this name.
    pub fn children_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the one child of this name, none where there is none. Errors: MalformedXML
    /// where there are several, or it has elements in it.
    pub fn text_of(&self, name: &str) -> Result<Option<&str>, S3Error> {
        let mut found = self.children.iter().filter(|child| child.name == name);
        let Some(first) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() || !first.children.is_empty() {
            return Err(malformed());
        }
        Ok(Some(&first.text))
    }

    /// As [`Element::text_of`], where the child must be there.
    pub fn required(&self, name: &str) -> Result<&str, S3Error> {
        self.text_of(name)?.ok_or_else(malformed)
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Refuses children of any other name. Errors: MalformedXML.
    pub fn allow_only(&self, names: &[&str]) -> Result<(), S3Error> {
        let known = |child: &Self| names.contains(&child.name.as_str());
        if self.children.iter().all(known) {
            Ok(())
        } else {
            Err(malformed())
        }
    }
}

/// The refusal of a document.
pub fn malformed() -> S3Error {
    S3Code::MalformedXML.into()
}

/// Parses a document whose root element has this name. Errors: MalformedXML, for everything
/// that is not well-formed, not UTF-8, has a DOCTYPE, or goes beyond [`MAX_DEPTH`] or
/// [`MAX_ELEMENTS`]. The caller bounds the size.
pub fn parse(document: &[u8], root: &str) -> Result<Element, S3Error> {
    let text = std::str::from_utf8(document).map_err(|_| malformed())?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let element = parse_tree(text).ok_or_else(malformed)?;
    if element.name == root {
        Ok(element)
    } else {
        Err(malformed())
    }
}

fn parse_tree(text: &str) -> Option<Element> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut count = 0;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                count += 1;
                if root.is_some() || open.len() == MAX_DEPTH || count > MAX_ELEMENTS {
                    return None;
                }
                open.push(begin(&start)?);
            }
            Event::End(_) => {
                let mut element = open.pop()?;
                if !element.children.is_empty() {
                    if !element.text.trim().is_empty() {
                        return None;
                    }
                    element.text.clear();
                }
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => root = Some(element),
                }
            }
            Event::Text(text) => add_text(&mut open, &text.xml10_content())?,
            Event::CData(text) => add_text(&mut open, &text.xml10_content())?,
            Event::GeneralRef(entity) => {
                let c = match entity.resolve_char_ref().ok()? {
                    Some(c) => c,
                    None => match &*entity {
                        "lt" => '<',
                        "gt" => '>',
                        "amp" => '&',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return None,
                    },
                };
                open.last_mut()?.text.push(c);
            }
            Event::Decl(_) | Event::Comment(_) => (),
            Event::Empty(_) | Event::PI(_) | Event::DocType(_) => return None,
            Event::Eof => break,
        }
    }
    root.filter(|_| open.is_empty())
}

fn add_text(open: &mut [Element], text: &str) -> Option<()> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => (),
        None => return None,
    }
    Some(())
}

fn begin(start: &BytesStart<'_>) -> Option<Element> {
    let mut element = Element {
        name: start.local_name().as_ref().to_owned(),
        ..Element::default()
    };
    for attribute in start.attributes() {
        let attribute = attribute.ok()?;
        let name = attribute.key;
        if name.as_namespace_binding().is_some() {
            continue;
        }
        let name = name.local_name().as_ref().to_owned();
        let value = quick_xml::escape::unescape(&attribute.value)
            .ok()?
            .into_owned();
        element.attributes.push((name, value));
    }
    Some(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_taken_with_the_namespace_and_without() {
        let plain = "<Tagging><TagSet><Tag><Key>a&amp;b</Key><Value/></Tag></TagSet></Tagging>";
        let spaced = "<?xml version=\"1.0\"?>\n<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\n \
             <TagSet>\n<Tag>\n<Key>a&#38;b</Key>\n<Value></Value></Tag>\n</TagSet>\n</Tagging>\n";
        let plain = parse(plain.as_bytes(), "Tagging").unwrap();
        assert_eq!(plain, parse(spaced.as_bytes(), "Tagging").unwrap());
        let tag = plain.child("TagSet").unwrap().child("Tag").unwrap();
        assert_eq!(tag.required("Key").unwrap(), "a&b");
        assert_eq!(tag.required("Value").unwrap(), "");
    }

    #[test]
    fn garbage_is_malformed() {
        let deep = "<a>".repeat(40) + &"</a>".repeat(40);
        for bad in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/><a/>",
            "<b/>",
            "<a>&nope;</a>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            "<a>text<b/></a>",
            "<a/>text",
            "<a x=1/>",
            deep.as_str(),
        ] {
            let error = parse(bad.as_bytes(), "a").unwrap_err();
            assert_eq!(error.code(), S3Code::MalformedXML, "{bad:?}");
        }
        assert!(parse(b"<a>\xff</a>", "a").is_err());
    }

    #[test]
    fn the_number_of_elements_is_bounded() {
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
        assert!(parse(many.as_bytes(), "a").is_err());
    }

    #[test]
    fn a_type_of_a_grantee_is_read_whatever_its_prefix() {
        let text =
            "<G xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"Group\"/>";
        let element = parse(text.as_bytes(), "G").unwrap();
        assert_eq!(element.attribute("type"), Some("Group"));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = "a<b>&\"c\"'d\r\n\té\u{1F600}";
        let mut xml = XmlWriter::root("R");
        xml.text("T", text);
        xml.etag("abc");
        xml.close("R");
        let read = parse(&xml.finish(), "R").unwrap();
        assert_eq!(read.required("T").unwrap(), text);
        assert_eq!(read.required("ETag").unwrap(), "\"abc\"");
    }

    #[test]
    fn characters_that_xml_cannot_carry_become_references() {
        let mut xml = XmlWriter::document();
        xml.text("K", "a\u{1}b\u{0}");
        let text = xml.finish();
        assert!(text.ends_with(b"<K>a&#x1;b&#x0;</K>"), "{text:?}");
    }
}
