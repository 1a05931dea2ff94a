//! Extended attributes: a file's own, and what S3 keeps with an object, shown as some.
//!
//! `user.s3.meta.NAME` is the object's user metadata, `user.s3.content-type` and its like are
//! the headers kept with it. They are in the object's record, which itself is not shown and
//! cannot be forged.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::super::Inner;
use super::super::attrs::{Record, XATTR_NAME};
use super::super::osdisk::posix::{
    is_regular, set_xattr, take_xattr, xattr, xattr_names, xattr_of_open,
};
use super::super::osdisk::{OsDisk, OsFile};
use super::keep::Kept;
use super::open::{Held, PosixFile};
use crate::files::{Errno, FileResult, OpenFlags, Target, XattrMode};
use crate::object::Attributes;

/// What is S3's begins with this.
const S3_PREFIX: &str = "user.s3.";
/// User metadata, after the prefix.
const META_PREFIX: &str = "meta.";
/// Headers kept with an object that are shown, after the prefix.
const HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
/// Most user metadata of an object, names and values together, in bytes. Source: S3 User Guide,
/// "Working with object metadata".
const MAX_USER_METADATA_LEN_BYTES: usize = 2_048;
/// Longest header value, in bytes.
const MAX_HEADER_LEN_BYTES: usize = 2_048;

/// What a name of an xattr means.
pub(crate) enum Named<'a> {
    /// An attribute of the file itself.
    Own,
    /// The record.
    Record,
    /// User metadata.
    Meta(&'a str),
    /// A header.
    Header(&'a str),
    /// S3's, but nothing that it has.
    Nothing,
}

pub(crate) fn meaning(name: &OsStr) -> Named<'_> {
    if name.as_bytes() == XATTR_NAME.as_bytes() {
        return Named::Record;
    }
    let Some(rest) = name.as_bytes().strip_prefix(S3_PREFIX.as_bytes()) else {
        return Named::Own;
    };
    let Ok(rest) = std::str::from_utf8(rest) else {
        return Named::Nothing;
    };
    match rest.strip_prefix(META_PREFIX) {
        Some(meta) if is_header_name(meta) => Named::Meta(meta),
        None if HEADERS.contains(&rest) => Named::Header(rest),
        _ => Named::Nothing,
    }
}

/// Whether a header can have this name, in the lower case in which it is kept. Source: RFC 9110,
/// section 5.6.2.
fn is_header_name(name: &str) -> bool {
    let is_token =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(is_token)
}

/// A value that a header can have: no control characters, no blanks around it. Errors: EINVAL.
fn header_value(value: &[u8]) -> FileResult<&str> {
    let text = std::str::from_utf8(value).map_err(|_| Errno::INVAL)?;
    let is_plain = !text.chars().any(char::is_control) && text.trim_matches(' ') == text;
    is_plain.then_some(text).ok_or(Errno::INVAL)
}

fn map_of<'a>(attrs: &'a mut Attributes, named: &Named<'_>) -> &'a mut BTreeMap<String, String> {
    match named {
        Named::Meta(_) => &mut attrs.user,
        _ => &mut attrs.system,
    }
}

/// Takes one entry away from an object's attributes; none where it is not there.
pub(crate) fn take_entry(attrs: &mut Attributes, named: &Named<'_>) -> Option<String> {
    match named {
        Named::Meta(name) | Named::Header(name) => map_of(attrs, named).remove(*name),
        Named::Own | Named::Record | Named::Nothing => None,
    }
}

/// The names of an object's attributes that are shown as xattrs.
pub(crate) fn named_in_record(attrs: Attributes) -> Vec<OsString> {
    let Attributes { system, user, .. } = attrs;
    let headers = system.into_keys();
    let headers = headers.filter(|key| HEADERS.contains(&key.as_str()));
    let meta = user.into_keys().filter(|key| is_header_name(key));
    headers
        .map(|key| format!("{S3_PREFIX}{key}").into())
        .chain(meta.map(|key| format!("{S3_PREFIX}{META_PREFIX}{key}").into()))
        .collect()
}

/// Sets one entry of an object's attributes. Errors: EEXIST, ENODATA, EINVAL, E2BIG, ENOSPC.
pub(crate) fn set_entry(
    attrs: &mut Attributes,
    named: &Named<'_>,
    value: &[u8],
    mode: XattrMode,
) -> FileResult<()> {
    let (Named::Meta(name) | Named::Header(name)) = named else {
        return Err(Errno::INVAL);
    };
    let name = *name;
    let value = header_value(value)?;
    if value.len() > MAX_HEADER_LEN_BYTES {
        return Err(Errno::TOOBIG);
    }
    let map = map_of(attrs, named);
    match (mode, map.contains_key(name)) {
        (XattrMode::Create, true) => return Err(Errno::EXIST),
        (XattrMode::Replace, false) => return Err(Errno::NODATA),
        _ => {}
    }
    map.insert(name.to_owned(), value.to_owned());
    let len = |(name, value): (&String, &String)| name.len() + value.len();
    let all: usize = attrs.user.iter().map(len).sum();
    match all > MAX_USER_METADATA_LEN_BYTES {
        true => Err(Errno::NOSPC),
        false => Ok(()),
    }
}

impl Inner<OsDisk> {
    pub(super) fn get_xattr(
        &self,
        target: Target<'_, PosixFile>,
        name: &OsStr,
    ) -> FileResult<Vec<u8>> {
        let named = meaning(name);
        // Asked before every write that a kernel does not do by itself.
        if let (Target::Open(file), Named::Own) = (&target, &named) {
            return xattr_of_open(file.fd(), name);
        }
        let held = self.hold_target(target)?;
        match &named {
            Named::Own => return xattr(held.fd(), name),
            Named::Record | Named::Nothing => return Err(Errno::NODATA),
            Named::Meta(_) | Named::Header(_) => {}
        }
        let mut attrs = self
            .record_held(&held)?
            .map_or_else(Attributes::default, |(_, record)| record.attrs);
        let value = take_entry(&mut attrs, &named);
        value.map(String::into_bytes).ok_or(Errno::NODATA)
    }

    pub(super) fn list_xattrs(&self, target: Target<'_, PosixFile>) -> FileResult<Vec<OsString>> {
        let held = self.hold_target(target)?;
        let mut names = match xattr_names(held.fd()) {
            // What S3 keeps is in the record, wherever that is.
            Err(Errno::OPNOTSUPP) => Vec::new(),
            other => other?,
        };
        names.retain(|name| matches!(meaning(name), Named::Own));
        if let Some((_, record)) = self.record_held(&held)? {
            names.extend(named_in_record(record.attrs));
        }
        Ok(names)
    }

    pub(super) fn put_xattr(
        &self,
        target: Target<'_, PosixFile>,
        name: &OsStr,
        value: &[u8],
        mode: XattrMode,
    ) -> FileResult<()> {
        let held = self.hold_target(target)?;
        let named = meaning(name);
        match &named {
            Named::Own => self.keeping_digests(&held, |_| set_xattr(held.fd(), name, value, mode)),
            Named::Record => Err(Errno::PERM),
            Named::Nothing => Err(Errno::INVAL),
            Named::Meta(_) | Named::Header(_) => {
                self.change_attrs(&held, |attrs| set_entry(attrs, &named, value, mode))
            }
        }
    }

    pub(super) fn remove_xattr(
        &self,
        target: Target<'_, PosixFile>,
        name: &OsStr,
    ) -> FileResult<()> {
        let held = self.hold_target(target)?;
        let named = meaning(name);
        match &named {
            Named::Own => self.keeping_digests(&held, |_| take_xattr(held.fd(), name)),
            Named::Record => Err(Errno::PERM),
            Named::Nothing => Err(Errno::NODATA),
            Named::Meta(_) | Named::Header(_) => {
                self.change_attrs(&held, |attrs| match take_entry(attrs, &named) {
                    Some(_) => Ok(()),
                    None => Err(Errno::NODATA),
                })
            }
        }
    }

    /// The record of a regular file, and the file opened to change it.
    fn record_held(&self, held: &Held<'_>) -> FileResult<Option<(OsFile, Record)>> {
        if !is_regular(held.met.attr.mode) {
            return Ok(None);
        }
        let read = OpenFlags {
            read: true,
            ..OpenFlags::default()
        };
        let file = OsFile::from(self.tree.disk.reopen(held.fd(), read)?);
        let record = self.tree.records.load(&file, &held.met.facts);
        let record = record.map_err(|e| e.errno())?.unwrap_or_default();
        Ok(Some((file, record)))
    }

    /// Changes what S3 keeps with an object. The record stays as it is otherwise, digests that
    /// are in doubt included. Errors: EOPNOTSUPP for what is no regular file.
    fn change_attrs(
        &self,
        held: &Held<'_>,
        change: impl FnOnce(&mut Attributes) -> FileResult<()>,
    ) -> FileResult<()> {
        if !is_regular(held.met.attr.mode) {
            return Err(Errno::OPNOTSUPP);
        }
        let change = |kept: Option<&mut Kept>| {
            let Some((file, mut record)) = self.record_held(held)? else {
                return Err(Errno::OPNOTSUPP);
            };
            change(&mut record.attrs)?;
            let saved = self.tree.records.save(&file, &held.met.facts, &record);
            saved.map_err(|e| e.errno())?;
            if let Some(attrs) = kept.and_then(|kept| kept.attrs_mut()) {
                *attrs = record.attrs;
            }
            Ok(())
        };
        match held.writable() {
            // S3 changes the same record in its turns.
            Some(_) => {
                let acted = self.committer.act_here(&[], false, |_| change(None));
                acted.map_err(|e| e.errno())?
            }
            None => self.keeping_digests(held, change),
        }
    }
}
