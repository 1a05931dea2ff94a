//! Access lists: who owns a bucket or an object, and what others were granted.
//!
//! Kept as one line of text, in `Attributes.acl` of an object and in the setting [`SETTING`] of
//! a bucket: `1;owner=ID;read=*all;full=ID`. Source: S3 User Guide, "Access control list (ACL)
//! overview".

use fsstore::volume::BucketInfo;

use super::AuthError;
use crate::users::is_canonical_id;

/// Name of the bucket setting that holds the text form.
pub const SETTING: &str = "acl";
/// Most grants of one list. Source: S3 User Guide, the same.
pub const MAX_GRANTS: usize = 100;

/// Who is granted something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Grantee {
    /// A user, by canonical id.
    User(String),
    /// Everyone, anonymous callers included.
    AllUsers,
    /// Every user.
    AuthenticatedUsers,
    /// The group that writes access logs.
    LogDelivery,
}

impl Grantee {
    const GROUPS: [(Self, &'static str, &'static str); 3] = [
        (
            Self::AllUsers,
            "*all",
            "http://acs.amazonaws.com/groups/global/AllUsers",
        ),
        (
            Self::AuthenticatedUsers,
            "*authenticated",
            "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
        ),
        (
            Self::LogDelivery,
            "*log-delivery",
            "http://acs.amazonaws.com/groups/s3/LogDelivery",
        ),
    ];

    /// The URI of a group; none for a user.
    pub fn uri(&self) -> Option<&'static str> {
        let mut groups = Self::GROUPS.iter();
        groups.find(|(g, _, _)| g == self).map(|(_, _, uri)| *uri)
    }

    /// The group of a URI.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let mut groups = Self::GROUPS.iter();
        groups
            .find(|(_, _, known)| *known == uri)
            .map(|(g, _, _)| g.clone())
    }
}

/// What is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Everything below.
    FullControl,
    /// Bucket: list its objects. Object: its bytes and metadata.
    Read,
    /// Bucket: make, replace and delete objects. Object: nothing.
    Write,
    /// Read the access list.
    ReadAcp,
    /// Change the access list.
    WriteAcp,
}

impl Permission {
    const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::FullControl, "FULL_CONTROL", "full"),
        (Self::Read, "READ", "read"),
        (Self::Write, "WRITE", "write"),
        (Self::ReadAcp, "READ_ACP", "read-acp"),
        (Self::WriteAcp, "WRITE_ACP", "write-acp"),
    ];

    /// S3's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FullControl => "FULL_CONTROL",
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::ReadAcp => "READ_ACP",
            Self::WriteAcp => "WRITE_ACP",
        }
    }

    /// The permission of S3's name.
    pub fn parse(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(_, known, _)| *known == name).map(|(p, _, _)| *p)
    }

    /// True where a grant of this includes `asked`.
    pub fn includes(self, asked: Self) -> bool {
        self == Self::FullControl || self == asked
    }
}

/// The canned lists. Source: S3 User Guide, "Canned ACL".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CannedAcl {
    /// `private`
    Private,
    /// `public-read`
    PublicRead,
    /// `public-read-write`
    PublicReadWrite,
    /// `authenticated-read`
    AuthenticatedRead,
    /// `bucket-owner-read`
    BucketOwnerRead,
    /// `bucket-owner-full-control`
    BucketOwnerFullControl,
    /// `log-delivery-write`
    LogDeliveryWrite,
    /// `aws-exec-read`: as `private`, there being no such service here.
    AwsExecRead,
}

impl CannedAcl {
    /// The canned list of a header's value. Errors: InvalidArgument.
    pub fn parse(value: &str) -> Result<Self, AuthError> {
        Ok(match value {
            "private" => Self::Private,
            "public-read" => Self::PublicRead,
            "public-read-write" => Self::PublicReadWrite,
            "authenticated-read" => Self::AuthenticatedRead,
            "bucket-owner-read" => Self::BucketOwnerRead,
            "bucket-owner-full-control" => Self::BucketOwnerFullControl,
            "log-delivery-write" => Self::LogDeliveryWrite,
            "aws-exec-read" => Self::AwsExecRead,
            other => {
                return Err(AuthError::InvalidArgument {
                    message: "unknown canned ACL",
                    name: "x-amz-acl",
                    value: other.to_owned(),
                });
            }
        })
    }
}

/// An access list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    /// Canonical id of the owner; none: what it is on belongs to the admins.
    pub owner: Option<String>,
    /// Grants, in the order given; at most [`MAX_GRANTS`].
    pub grants: Vec<(Grantee, Permission)>,
}

impl Acl {
    /// The owner has full control, nobody else anything.
    pub fn private(owner: Option<String>) -> Self {
        Self::canned(CannedAcl::Private, owner, None)
    }

    /// A canned list. `bucket_owner` is the owner of the bucket that an object goes to; none for
    /// a bucket's own list.
    pub fn canned(canned: CannedAcl, owner: Option<String>, bucket_owner: Option<&str>) -> Self {
        let mut grants = Vec::new();
        if let Some(id) = &owner {
            grants.push((Grantee::User(id.clone()), Permission::FullControl));
        }
        let bucket_owner = bucket_owner
            .filter(|id| owner.as_deref() != Some(*id))
            .map(|id| Grantee::User(id.to_owned()));
        match canned {
            CannedAcl::Private | CannedAcl::AwsExecRead => {}
            CannedAcl::PublicRead => grants.push((Grantee::AllUsers, Permission::Read)),
            CannedAcl::PublicReadWrite => {
                grants.push((Grantee::AllUsers, Permission::Read));
                grants.push((Grantee::AllUsers, Permission::Write));
            }
            CannedAcl::AuthenticatedRead => {
                grants.push((Grantee::AuthenticatedUsers, Permission::Read));
            }
            CannedAcl::BucketOwnerRead => {
                grants.extend(bucket_owner.map(|g| (g, Permission::Read)));
            }
            CannedAcl::BucketOwnerFullControl => {
                grants.extend(bucket_owner.map(|g| (g, Permission::FullControl)));
            }
            CannedAcl::LogDeliveryWrite => {
                grants.push((Grantee::LogDelivery, Permission::Write));
                grants.push((Grantee::LogDelivery, Permission::ReadAcp));
            }
        }
        Self { owner, grants }
    }

    /// The list of a bucket: the one it keeps, else private.
    pub fn of_bucket(bucket: &BucketInfo) -> Self {
        Self::kept(bucket.owner.as_deref(), bucket.settings.get(SETTING))
    }

    /// The list of an object, from its attributes' `owner` and `acl`: the one it keeps, else
    /// private.
    pub fn of_object(attrs: &fsstore::object::Attributes) -> Self {
        Self::kept(attrs.owner.as_deref(), attrs.acl.as_ref())
    }

    /// A text that cannot be read grants nothing to anyone but the owner.
    fn kept(owner: Option<&str>, text: Option<&String>) -> Self {
        text.and_then(|text| Self::from_text(text))
            .unwrap_or_else(|| Self::private(owner.map(str::to_owned)))
    }

    /// The text form.
    pub fn to_text(&self) -> String {
        let mut text = String::from("1");
        if let Some(owner) = &self.owner {
            text.push_str(";owner=");
            text.push_str(owner);
        }
        for (grantee, permission) in &self.grants {
            let short = Permission::ALL.iter().find(|(p, _, _)| p == permission);
            text.push(';');
            text.push_str(short.map_or("", |(_, _, short)| short));
            text.push('=');
            match grantee {
                Grantee::User(id) => text.push_str(id),
                group => {
                    let token = Grantee::GROUPS.iter().find(|(g, _, _)| g == group);
                    text.push_str(token.map_or("", |(_, token, _)| token));
                }
            }
        }
        text
    }

    /// Reads the text form; none where it is not one.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut fields = text.split(';');
        if fields.next() != Some("1") {
            return None;
        }
        let mut acl = Self {
            owner: None,
            grants: Vec::new(),
        };
        for field in fields {
            let (name, value) = field.split_once('=')?;
            if name == "owner" {
                if acl.owner.is_some() || !is_canonical_id(value) {
                    return None;
                }
                acl.owner = Some(value.to_owned());
                continue;
            }
            let (permission, _, _) = Permission::ALL
                .iter()
                .find(|(_, _, short)| *short == name)?;
            let group = Grantee::GROUPS.iter().find(|(_, token, _)| *token == value);
            let grantee = match group {
                Some((group, _, _)) => group.clone(),
                None if is_canonical_id(value) => Grantee::User(value.to_owned()),
                None => return None,
            };
            if acl.grants.len() == MAX_GRANTS {
                return None;
            }
            acl.grants.push((grantee, *permission));
        }
        Some(acl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::stable_id;
    use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

    fn grantees() -> impl Strategy<Value = Grantee> {
        prop_oneof![
            Just(Grantee::AllUsers),
            Just(Grantee::AuthenticatedUsers),
            Just(Grantee::LogDelivery),
            "[a-z]{1,5}".prop_map(|name| Grantee::User(stable_id(&name))),
        ]
    }

    proptest! {
        #[test]
        fn the_text_form_is_reversible(
            owner in proptest::option::of("[a-z]{1,5}"),
            grants in proptest::collection::vec(
                (grantees(), (0..5usize).prop_map(|i| Permission::ALL[i].0)), 0..8,
            ),
        ) {
            let acl = Acl { owner: owner.map(|name| stable_id(&name)), grants };
            assert_eq!(Acl::from_text(&acl.to_text()), Some(acl));
        }
    }

    #[test]
    fn other_texts_are_no_lists() {
        let id = stable_id("a");
        for bad in [
            String::new(),
            "2".to_owned(),
            "1;".to_owned(),
            "1;read=*everyone".to_owned(),
            "1;fly=*all".to_owned(),
            "1;owner=me".to_owned(),
            format!("1;owner={id};owner={id}"),
            format!("1{}", ";read=*all".repeat(MAX_GRANTS + 1)),
        ] {
            assert_eq!(Acl::from_text(&bad), None, "{bad}");
        }
    }

    #[test]
    fn an_unreadable_list_grants_only_the_owner() {
        let owner = stable_id("a");
        let attrs = fsstore::object::Attributes {
            owner: Some(owner.clone()),
            acl: Some("9;read=*all".to_owned()),
            ..Default::default()
        };
        assert_eq!(Acl::of_object(&attrs), Acl::private(Some(owner)));
    }

    #[test]
    fn canned_lists_grant_what_they_say() {
        let (me, other) = (stable_id("me"), stable_id("other"));
        let text = |name: &str, bucket_owner: &str| {
            let canned = CannedAcl::parse(name).unwrap();
            let acl = Acl::canned(canned, Some(me.clone()), Some(bucket_owner));
            let text = acl.to_text();
            text.replace(&me, "ME").replace(&other, "OTHER")
        };
        for (name, grants) in [
            ("private", ""),
            ("public-read", ";read=*all"),
            ("public-read-write", ";read=*all;write=*all"),
            ("authenticated-read", ";read=*authenticated"),
            ("bucket-owner-read", ";read=OTHER"),
            ("bucket-owner-full-control", ";full=OTHER"),
            (
                "log-delivery-write",
                ";write=*log-delivery;read-acp=*log-delivery",
            ),
            ("aws-exec-read", ""),
        ] {
            assert_eq!(text(name, &other), format!("1;owner=ME;full=ME{grants}"));
        }
        // The owner of the bucket needs no second grant.
        assert_eq!(text("bucket-owner-read", &me), "1;owner=ME;full=ME");
        assert!(CannedAcl::parse("public-ready").is_err());
    }
}
