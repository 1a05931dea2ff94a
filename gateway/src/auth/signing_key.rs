//! Signing keys of SigV4, derived once a day and region and kept beside the access key.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};

/// Most derived keys kept for one access key (its last days, regions and services).
const MAX_KEPT: usize = 4;

/// A derived key. `Debug` does not show it.
#[derive(Clone)]
pub(crate) struct SigningKey(Arc<[u8]>);

impl SigningKey {
    /// Derives the key of a day (whole seconds since 1970 of any instant of it).
    pub(crate) fn derive(secret: &str, day_secs: u64, region: &str, service: &str) -> Self {
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(day_secs);
        let key = generate_signing_key(secret, day, region, service);
        Self(Arc::from(key.as_ref()))
    }

    /// The signature of a string to sign: 64 lower-case hex digits.
    pub(crate) fn sign(&self, string_to_sign: &[u8]) -> String {
        calculate_signature(&self.0, string_to_sign)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

#[derive(Debug, Clone)]
struct Kept {
    date: String,
    region: String,
    service: String,
    key: SigningKey,
}

/// The keys derived lately from one secret, at most [`MAX_KEPT`]. The lock guards the list only
/// and is never held while a key is derived.
#[derive(Debug, Default)]
pub(crate) struct SigningKeys(RwLock<Vec<Kept>>);

impl SigningKeys {
    /// The kept key of a scope.
    pub(crate) fn get(&self, date: &str, region: &str, service: &str) -> Option<SigningKey> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .find(|k| k.date == date && k.region == region && k.service == service)
            .map(|k| k.key.clone())
    }

    /// Keeps a key; the oldest goes when there are too many. Called only after a signature made
    /// with it was verified, so strangers cannot push keys out.
    pub(crate) fn keep(&self, date: &str, region: &str, service: &str, key: &SigningKey) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept
            .iter()
            .any(|k| k.date == date && k.region == region && k.service == service)
        {
            return;
        }
        if kept.len() >= MAX_KEPT {
            kept.remove(0);
        }
        kept.push(Kept {
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            key: key.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_bounded_and_exact() {
        let keys = SigningKeys::default();
        for day in 0..10u64 {
            let key = SigningKey::derive("secret", day * 86_400, "r", "s3");
            keys.keep(&day.to_string(), "r", "s3", &key);
        }
        assert_eq!(keys.0.read().unwrap().len(), MAX_KEPT);
        assert!(keys.get("0", "r", "s3").is_none());
        assert!(keys.get("9", "other", "s3").is_none());
        let found = keys.get("9", "r", "s3").unwrap();
        let again = SigningKey::derive("secret", 9 * 86_400, "r", "s3");
        assert_eq!(found.sign(b"x"), again.sign(b"x"));
    }

    #[test]
    fn debug_output_hides_the_key() {
        let key = SigningKey::derive("secret", 0, "r", "s3");
        assert_eq!(format!("{key:?}"), "SigningKey(***)");
    }
}
