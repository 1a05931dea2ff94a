//! What a caller may do: [`authorize`] is the only maker of [`Grant`] values.
//!
//! Order of decision: 1. members of `.admin` may do everything; 2. (here bucket policies will be
//! asked: an explicit deny ends it, an allow grants); 3. the bucket's owner may do everything in
//! the bucket; 4. the object's owner may do everything to it (but replacing and deleting are of the
//! bucket); 5. the access list of what is asked for. What has no owner belongs to the admins.

use std::marker::PhantomData;

use fsstore::object::Attributes;
use fsstore::volume::BucketInfo;

use super::acl::{Acl, Grantee, Permission};
use super::{AuthError, Identity};

mod sealed {
    pub trait Sealed {}
}

/// A kind of access that can be granted.
pub trait Access: sealed::Sealed {
    /// The permission of an access list that grants it.
    const PERMISSION: Permission;
}

macro_rules! access {
    ($($(#[$doc:meta])* $name:ident => $permission:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name;
        impl sealed::Sealed for $name {}
        impl Access for $name {
            const PERMISSION: Permission = Permission::$permission;
        }
    )+};
}

access! {
    /// List a bucket, or read an object and its metadata.
    Read => Read;
    /// Make, replace or delete objects of a bucket; change an object's tags.
    Write => Write;
    /// Read the access list.
    ReadAcl => ReadAcp;
    /// Change the access list.
    WriteAcl => WriteAcp;
    /// Delete a bucket, or change its settings: owners only, no list grants it.
    Manage => FullControl;
}

/// What access is asked to.
#[derive(Debug, Clone, Copy)]
pub enum Resource<'a> {
    /// The account: list its buckets (Read), make one (Write). Any user may.
    Service,
    /// A bucket.
    Bucket(&'a BucketInfo),
    /// An object that stands in a bucket.
    Object(&'a BucketInfo, &'a Attributes),
}

/// Proof that a caller may do `A` to what it was made for.
#[derive(Debug, Clone)]
pub struct Grant<A> {
    caller: Option<Identity>,
    access: PhantomData<A>,
}

impl<A: Access> Grant<A> {
    /// Who may; none is anonymous.
    pub fn caller(&self) -> Option<&Identity> {
        self.caller.as_ref()
    }

    /// The canonical id that what the caller makes will belong to; none for anonymous callers.
    pub fn owner(&self) -> Option<String> {
        self.caller.as_ref().map(|caller| caller.user.id.clone())
    }
}

/// Decides whether a caller may do `A`. Errors: AccessDenied.
pub fn authorize<A: Access>(
    caller: Option<&Identity>,
    resource: Resource<'_>,
) -> Result<Grant<A>, AuthError> {
    if !may(caller, A::PERMISSION, resource) {
        return Err(AuthError::DENIED);
    }
    Ok(Grant {
        caller: caller.cloned(),
        access: PhantomData,
    })
}

fn may(caller: Option<&Identity>, asked: Permission, resource: Resource<'_>) -> bool {
    if caller.is_some_and(|caller| caller.user.is_admin()) {
        return true;
    }
    let id = caller.map(|caller| caller.user.id.as_str());
    match resource {
        Resource::Service => caller.is_some(),
        Resource::Bucket(bucket) => {
            is_owner(id, bucket.owner.as_deref()) || is_listed(id, asked, &Acl::of_bucket(bucket))
        }
        Resource::Object(bucket, attrs) => {
            is_owner(id, bucket.owner.as_deref())
                || is_owner(id, attrs.owner.as_deref())
                || is_listed(id, asked, &Acl::of_object(attrs))
        }
    }
}

fn is_owner(id: Option<&str>, owner: Option<&str>) -> bool {
    id.is_some() && id == owner
}

/// Managing a bucket is its owner's: no list grants it.
fn is_listed(id: Option<&str>, asked: Permission, acl: &Acl) -> bool {
    asked != Permission::FullControl
        && acl.grants.iter().any(|(grantee, permission)| {
            permission.includes(asked)
                && match grantee {
                    Grantee::User(user) => id == Some(user),
                    Grantee::AllUsers => true,
                    Grantee::AuthenticatedUsers => id.is_some(),
                    Grantee::LogDelivery => false,
                }
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use fsstore::name::BucketName;
    use fsstore::object::Timestamp;
    use fsstore::volume::Durability;

    use super::super::acl::{CannedAcl, SETTING};
    use super::*;
    use crate::users::{ADMIN_GROUP, User, stable_id};

    fn caller(name: &str, group: &str) -> Option<Identity> {
        Some(Identity {
            user: Arc::new(User {
                id: stable_id(name),
                name: name.to_owned(),
                account: "main".to_owned(),
                groups: vec![group.to_owned()],
                uid: None,
                gid: None,
                gids: Vec::new(),
                umask: None,
            }),
            access_key: "KEY".to_owned(),
        })
    }

    fn bucket(owner: Option<&str>, acl: Option<&Acl>) -> BucketInfo {
        let mut settings = BTreeMap::new();
        if let Some(acl) = acl {
            settings.insert(SETTING.to_owned(), acl.to_text());
        }
        BucketInfo {
            name: BucketName::parse("b").unwrap(),
            created: Timestamp::default(),
            owner: owner.map(stable_id),
            durability: Durability::Strict,
            settings,
        }
    }

    fn object(owner: Option<&str>, acl: Option<&Acl>) -> Attributes {
        Attributes {
            owner: owner.map(stable_id),
            acl: acl.map(Acl::to_text),
            ..Attributes::default()
        }
    }

    /// Which of Read, Write, ReadAcl, WriteAcl, Manage are granted: one letter each.
    fn granted(caller: Option<&Identity>, on: Resource<'_>) -> String {
        let mut out = String::new();
        for (letter, is_granted) in [
            ('r', authorize::<Read>(caller, on).is_ok()),
            ('w', authorize::<Write>(caller, on).is_ok()),
            ('R', authorize::<ReadAcl>(caller, on).is_ok()),
            ('W', authorize::<WriteAcl>(caller, on).is_ok()),
            ('m', authorize::<Manage>(caller, on).is_ok()),
        ] {
            if is_granted {
                out.push(letter);
            }
        }
        out
    }

    #[test]
    fn a_private_bucket_is_its_owners_and_the_admins() {
        let bucket = bucket(Some("alice"), None);
        let on = Resource::Bucket(&bucket);
        assert_eq!(granted(caller("alice", "g").as_ref(), on), "rwRWm");
        assert_eq!(granted(caller("root", ADMIN_GROUP).as_ref(), on), "rwRWm");
        assert_eq!(granted(caller("bob", "g").as_ref(), on), "");
        assert_eq!(granted(None, on), "");
    }

    #[test]
    fn what_has_no_owner_is_the_admins() {
        let (bucket, object) = (bucket(None, None), object(None, None));
        for on in [
            Resource::Bucket(&bucket),
            Resource::Object(&bucket, &object),
        ] {
            assert_eq!(granted(caller("root", ADMIN_GROUP).as_ref(), on), "rwRWm");
            assert_eq!(granted(caller("alice", "g").as_ref(), on), "");
            assert_eq!(granted(None, on), "");
        }
    }

    #[test]
    fn groups_of_a_list_are_told_apart() {
        let of = |canned| {
            let acl = Acl::canned(canned, Some(stable_id("alice")), None);
            let bucket = bucket(Some("alice"), Some(&acl));
            let on = Resource::Bucket(&bucket);
            (granted(caller("bob", "g").as_ref(), on), granted(None, on))
        };
        let own = |user: &str, anyone: &str| (user.to_owned(), anyone.to_owned());
        assert_eq!(of(CannedAcl::PublicRead), own("r", "r"));
        assert_eq!(of(CannedAcl::PublicReadWrite), own("rw", "rw"));
        assert_eq!(of(CannedAcl::AuthenticatedRead), own("r", ""));
        assert_eq!(of(CannedAcl::LogDeliveryWrite), own("", ""));
    }

    #[test]
    fn a_grant_to_a_user_is_that_users_only() {
        let acl = Acl {
            owner: Some(stable_id("alice")),
            grants: vec![(Grantee::User(stable_id("bob")), Permission::FullControl)],
        };
        let bucket = bucket(Some("alice"), Some(&acl));
        let on = Resource::Bucket(&bucket);
        // Full control is of the list's permissions; managing stays with the owner.
        assert_eq!(granted(caller("bob", "g").as_ref(), on), "rwRW");
        assert_eq!(granted(caller("carol", "g").as_ref(), on), "");
        // An owner whose grants were all revoked keeps the bucket.
        assert_eq!(granted(caller("alice", "g").as_ref(), on), "rwRWm");
    }

    #[test]
    fn an_objects_list_is_its_own() {
        let public = Acl::canned(CannedAcl::PublicRead, Some(stable_id("alice")), None);
        let open_bucket = bucket(Some("alice"), Some(&public));
        let shut_bucket = bucket(Some("alice"), None);
        let shut = object(Some("alice"), None);
        let open = object(Some("alice"), Some(&public));
        assert_eq!(granted(None, Resource::Object(&open_bucket, &shut)), "");
        assert_eq!(granted(None, Resource::Object(&shut_bucket, &open)), "r");
    }

    #[test]
    fn an_object_of_another_is_its_owners_and_the_bucket_owners() {
        let bucket = bucket(Some("alice"), None);
        let object = object(Some("bob"), None);
        let on = Resource::Object(&bucket, &object);
        assert_eq!(granted(caller("bob", "g").as_ref(), on), "rwRWm");
        assert_eq!(granted(caller("alice", "g").as_ref(), on), "rwRWm");
        assert_eq!(granted(caller("carol", "g").as_ref(), on), "");
        // Replacing and deleting it are of the bucket, which is not bob's.
        assert_eq!(
            granted(caller("bob", "g").as_ref(), Resource::Bucket(&bucket)),
            ""
        );
    }

    #[test]
    fn any_user_may_make_buckets_and_nobody_else() {
        let grant = authorize::<Write>(caller("bob", "g").as_ref(), Resource::Service).unwrap();
        assert_eq!(grant.owner(), Some(stable_id("bob")));
        assert_eq!(granted(None, Resource::Service), "");
    }
}
