//! What a file inherits from its directory's default ACL, as the kernel decides it for a file made
//! in place: a staged file is made elsewhere. Pure.
//!
//! Source: acl(5), "OBJECT CREATION AND DEFAULT ACLs"; Linux, `posix_acl_create_masq` and
//! `linux/posix_acl_xattr.h` (a version of 32 bits, then entries of tag, permissions and id, all
//! little-endian).

/// The access ACL, as an xattr.
pub const ACCESS_ACL: &str = "system.posix_acl_access";
/// The default ACL, as an xattr of a directory.
pub const DEFAULT_ACL: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_LEN_BYTES: usize = 4;
const ENTRY_LEN_BYTES: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What a file made in a directory with a default ACL gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inherited {
    /// Its permission bits.
    pub mode: u32,
    /// Its access ACL; none where the bits say all.
    pub acl: Option<Vec<u8>>,
}

/// What a file made with `mode` inherits; none where the ACL cannot be understood.
pub fn inherit(default_acl: &[u8], mode: u32) -> Option<Inherited> {
    let mut acl = default_acl.to_vec();
    let (header, entries) = acl.split_first_chunk_mut::<HEADER_LEN_BYTES>()?;
    if u32::from_le_bytes(*header) != VERSION || entries.len() % ENTRY_LEN_BYTES != 0 {
        return None;
    }
    let has_mask = entries.chunks(ENTRY_LEN_BYTES).any(|e| tag_of(e) == MASK);
    let (mut bits, mut says_more) = (0, false);
    for entry in entries.chunks_mut(ENTRY_LEN_BYTES) {
        let shift = match tag_of(entry) {
            USER_OBJ => 6,
            OTHER => 0,
            MASK => 3,
            GROUP_OBJ if !has_mask => 3,
            GROUP_OBJ | USER | GROUP => {
                says_more |= tag_of(entry) != GROUP_OBJ;
                continue;
            }
            _ => return None,
        };
        says_more |= tag_of(entry) == MASK;
        let allowed = u16::from_le_bytes([entry[2], entry[3]]) & ((mode >> shift) & 0o7) as u16;
        entry[2..4].copy_from_slice(&allowed.to_le_bytes());
        bits |= u32::from(allowed) << shift;
    }
    Some(Inherited {
        mode: bits,
        acl: says_more.then_some(acl),
    })
}

fn tag_of(entry: &[u8]) -> u16 {
    u16::from_le_bytes([entry[0], entry[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    const NOBODY: u32 = u32::MAX;

    #[test]
    fn three_entries_are_permission_bits() {
        let given = acl(&[
            (USER_OBJ, 7, NOBODY),
            (GROUP_OBJ, 5, NOBODY),
            (OTHER, 0, NOBODY),
        ]);
        let inherited = inherit(&given, 0o666).unwrap();
        assert_eq!((inherited.mode, inherited.acl), (0o640, None));
    }

    #[test]
    fn further_entries_are_masked_by_the_mode() {
        let given = [
            (USER_OBJ, 7, NOBODY),
            (USER, 7, 1000),
            (GROUP_OBJ, 5, NOBODY),
            (MASK, 7, NOBODY),
            (OTHER, 5, NOBODY),
        ];
        let mut expected = given;
        expected[0].1 = 6;
        expected[3].1 = 6;
        expected[4].1 = 4;
        let inherited = inherit(&acl(&given), 0o666).unwrap();
        assert_eq!(inherited.mode, 0o664);
        assert_eq!(inherited.acl, Some(acl(&expected)));
    }

    #[test]
    fn what_is_no_acl_is_passed_over() {
        let known = acl(&[(USER_OBJ, 7, NOBODY)]);
        assert_eq!(inherit(&known[..10], 0o666), None);
        assert_eq!(inherit(&[], 0o666), None);
        assert_eq!(inherit(&[3, 0, 0, 0], 0o666), None);
        assert_eq!(inherit(&acl(&[(0x40, 7, NOBODY)]), 0o666), None);
    }
}
