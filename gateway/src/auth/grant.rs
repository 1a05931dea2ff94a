//! What a caller may do: [`authorize`] is the only maker of [`Grant`] values.
//!
//! Order of decision: 1. members of `.admin` may do everything; 2. (here bucket policies will be
//! asked: an explicit deny ends it, an allow grants); 3. the bucket's owner may do everything in
//! the bucket; 4. the object's owner may read it and read and write its access list; 5. the access
//! list of what is asked for. What has no owner belongs to the admins.

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
    /// Make, replace or delete objects of a bucket.
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
                || (is_owner(id, attrs.owner.as_deref()) && asked != Permission::Write)
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
