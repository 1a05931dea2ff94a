//! The policy of a POST form: who signed it, until when it holds and what it allows.
//! Source: S3 API, "Browser-Based Uploads Using POST", POST Policy.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fsstore::object::Timestamp;
use serde_json::Value;

use super::sigv4::find_key;
use super::{AuthConfig, AuthError, Identity, check_token, date, sigv2, sigv4};
use crate::body::form::FormFields;
use crate::users::Directory;

/// Most conditions of one policy.
const MAX_CONDITIONS: usize = 1_000;

/// What a form's policy allows its sender.
#[derive(Debug, Clone)]
pub struct PostAuthorization {
    /// Who signed the policy; none where the form has no policy: anonymous.
    pub identity: Option<Identity>,
    /// The least and the greatest length of the file, in bytes, where the policy limits it.
    pub len_range_bytes: Option<(u64, u64)>,
}

/// Verifies a form's signature and that its fields are what its policy allows. A form without
/// policy and signature is anonymous. Errors: AccessDenied, PolicyNotMet, InvalidPolicyDocument,
/// InvalidArgument for a missing field, and those of signatures.
pub fn verify(
    fields: &FormFields,
    bucket: &str,
    directory: &Directory,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<PostAuthorization, AuthError> {
    let names = [
        "x-amz-signature",
        "signature",
        "awsaccesskeyid",
        "x-amz-credential",
    ];
    let Some(policy_base64) = fields.get("policy") else {
        if names.iter().any(|name| fields.get(name).is_some()) {
            return Err(missing("policy"));
        }
        return Ok(PostAuthorization {
            identity: None,
            len_range_bytes: None,
        });
    };
    let identity = verify_signature(fields, policy_base64, directory, now, config)?;
    let policy = Policy::parse(policy_base64)?;
    if now >= policy.expires {
        return Err(not_met("Policy expired."));
    }
    policy.check(fields, bucket)?;
    Ok(PostAuthorization {
        identity: Some(identity),
        len_range_bytes: policy.len_range_bytes,
    })
}

fn verify_signature(
    fields: &FormFields,
    policy_base64: &str,
    directory: &Directory,
    now: Timestamp,
    config: &AuthConfig,
) -> Result<Identity, AuthError> {
    let field = |name: &'static str| fields.get(name).ok_or_else(|| missing(name));
    let token = fields.get("x-amz-security-token").map(str::as_bytes);
    let is_v4 = fields.get("x-amz-algorithm").is_some() || fields.get("x-amz-credential").is_some();
    let credential = if is_v4 {
        if field("x-amz-algorithm")? != sigv4::ALGORITHM {
            return Err(AuthError::InvalidArgument {
                message: "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"",
                name: "X-Amz-Algorithm",
                value: field("x-amz-algorithm")?.to_owned(),
            });
        }
        let scope = field("x-amz-credential")?;
        let signature = field("x-amz-signature")?;
        if date::parse_iso(field("x-amz-date")?).is_none() {
            return Err(missing("x-amz-date"));
        }
        let credential = find_key(directory, sigv4::access_key_of(scope, config)?)?;
        check_token(credential, token, now)?;
        sigv4::verify_policy(policy_base64, scope, signature, credential, config)?;
        credential
    } else {
        let credential = find_key(directory, field("awsaccesskeyid")?)?;
        let signature = field("signature")?;
        check_token(credential, token, now)?;
        if !sigv2::is_signature_of(policy_base64.as_bytes(), signature, credential) {
            return Err(AuthError::SignatureDoesNotMatch);
        }
        credential
    };
    Ok(Identity::of(credential))
}

fn missing(field: &'static str) -> AuthError {
    AuthError::InvalidArgument {
        message: "Bucket POST is missing a field, or has it after the file. Please check the \
                  order of the fields.",
        name: field,
        value: String::new(),
    }
}

fn not_met(why: impl Into<String>) -> AuthError {
    AuthError::PolicyNotMet(why.into())
}

fn invalid(why: &'static str) -> AuthError {
    AuthError::InvalidPolicyDocument(why)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// A field, by lower-case name, is exactly this.
    Eq(String, String),
    /// A field begins with this.
    StartsWith(String, String),
}

/// A policy document.
#[derive(Debug)]
struct Policy {
    expires: Timestamp,
    conditions: Vec<Condition>,
    len_range_bytes: Option<(u64, u64)>,
}

impl Policy {
    fn parse(policy_base64: &str) -> Result<Self, AuthError> {
        let bytes = STANDARD
            .decode(policy_base64.trim())
            .map_err(|_| invalid("Invalid Policy: not base64."))?;
        let document: Value =
            serde_json::from_slice(&bytes).map_err(|_| invalid("Invalid Policy: Invalid JSON."))?;
        let expires = document
            .get("expiration")
            .ok_or_else(|| invalid("Invalid Policy: Policy missing expiration."))?
            .as_str()
            .and_then(date::parse_rfc3339_utc)
            .ok_or_else(|| invalid("Invalid Policy: Invalid 'expiration' value."))?;
        let conditions = document
            .get("conditions")
            .and_then(Value::as_array)
            .ok_or_else(|| invalid("Invalid Policy: Policy missing conditions."))?;
        if conditions.len() > MAX_CONDITIONS {
            return Err(invalid("Invalid Policy: too many conditions."));
        }
        let mut policy = Self {
            expires,
            conditions: Vec::with_capacity(conditions.len()),
            len_range_bytes: None,
        };
        for condition in conditions {
            policy.add(condition)?;
        }
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Result<(), AuthError> {
        match condition {
            Value::Object(map) if !map.is_empty() => {
                for (name, value) in map {
                    let value = text(value)?;
                    let name = name.to_ascii_lowercase();
                    self.conditions.push(Condition::Eq(name, value));
                }
                Ok(())
            }
            Value::Array(list) => self.add_list(list),
            _ => Err(invalid("Invalid Policy: Invalid Simple-Condition.")),
        }
    }

    fn add_list(&mut self, list: &[Value]) -> Result<(), AuthError> {
        let [operator, first, second] = list else {
            return Err(invalid("Invalid Policy: a condition has three elements."));
        };
        let operator = text(operator)?.to_ascii_lowercase();
        if operator == "content-length-range" {
            let (min, max) = (number(first)?, number(second)?);
            if min > max {
                return Err(invalid("Invalid Policy: Invalid content-length-range."));
            }
            // Of several ranges all hold.
            let (low, high) = self.len_range_bytes.unwrap_or((0, u64::MAX));
            self.len_range_bytes = Some((low.max(min), high.min(max)));
            return Ok(());
        }
        let name = text(first)?;
        let name = name
            .strip_prefix('$')
            .ok_or_else(|| invalid("Invalid Policy: a field's name begins with '$'."))?
            .to_ascii_lowercase();
        let value = text(second)?;
        self.conditions.push(match operator.as_str() {
            "eq" => Condition::Eq(name, value),
            "starts-with" => Condition::StartsWith(name, value),
            _ => return Err(invalid("Invalid Policy: unknown operator.")),
        });
        Ok(())
    }

    /// Every condition holds, and every field is under one. Errors: PolicyNotMet.
    fn check(&self, fields: &FormFields, bucket: &str) -> Result<(), AuthError> {
        for condition in &self.conditions {
            let (Condition::Eq(name, value) | Condition::StartsWith(name, value)) = condition;
            let sent = if name == "bucket" {
                Some(bucket.to_owned())
            } else {
                fields.get_expanded(name)
            };
            let (operator, holds) = match condition {
                Condition::Eq(..) => ("eq", sent.as_deref() == Some(value)),
                // `["starts-with", "$x", ""]` allows anything, nothing included.
                Condition::StartsWith(..) => (
                    "starts-with",
                    sent.as_deref().unwrap_or("").starts_with(value.as_str())
                        && (sent.is_some() || value.is_empty()),
                ),
            };
            if !holds {
                return Err(not_met(format!(
                    "Policy Condition failed: [\"{operator}\", \"${name}\", \"{value}\"]"
                )));
            }
        }
        let names = fields
            .iter()
            .map(|(name, _)| name)
            .filter(|n| needs_condition(n));
        for name in names.chain(["bucket"]) {
            let is_covered = self.conditions.iter().any(|condition| {
                let (Condition::Eq(known, _) | Condition::StartsWith(known, _)) = condition;
                known == name
            });
            if !is_covered {
                return Err(not_met(format!("Extra input fields: {name}")));
            }
        }
        Ok(())
    }
}

/// Fields that carry the signature, are to be ignored, or only restrict the bytes are free.
fn needs_condition(name: &str) -> bool {
    let is_signature = matches!(
        name,
        "policy" | "signature" | "x-amz-signature" | "awsaccesskeyid" | "bucket"
    );
    !is_signature && !name.starts_with("x-ignore-") && !name.starts_with("x-amz-checksum-")
}

fn text(value: &Value) -> Result<String, AuthError> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| invalid("Invalid Policy: a condition's element is no string."))
}

/// A length: a number, or a string of digits.
fn number(value: &Value) -> Result<u64, AuthError> {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
        .ok_or_else(|| invalid("Invalid Policy: Invalid content-length-range."))
}

#[cfg(test)]
mod tests {
    use super::super::signing_key::SigningKey;
    use super::super::tests::{KEY, SECRET, directory_with};
    use super::*;
    use hmac::{Hmac, KeyInit, Mac};
    use serde_json::json;

    /// 2015-12-29, of the published example.
    const DAY: Timestamp = Timestamp::from_secs(1_451_347_200);

    fn sign_v2(policy: &str) -> String {
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(policy.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }

    fn conditions() -> Value {
        json!([
            {"bucket": "b"},
            ["StArTs-WiTh", "$KeY", "user/"],
            {"acl": "private"},
            ["starts-with", "$x-amz-meta-tag", ""],
            ["content-length-range", 1, "1024"],
        ])
    }

    fn verify_document(
        document: &Value,
        extra: &[(&str, &str)],
    ) -> Result<PostAuthorization, AuthError> {
        let policy = STANDARD.encode(document.to_string());
        let signature = sign_v2(&policy);
        let mut fields = vec![
            ("kEy", "user/${filename}"),
            ("aCl", "private"),
            ("AWSAccessKeyId", KEY),
            ("signature", &signature),
            ("pOLICy", &policy),
        ];
        fields.extend_from_slice(extra);
        let own = |(n, v): (&str, &str)| (n.to_owned(), v.to_owned());
        let fields = FormFields::new(fields.into_iter().map(own).collect(), "a.txt");
        verify(
            &fields,
            "b",
            &directory_with(None, None),
            DAY,
            &AuthConfig::default(),
        )
    }

    fn verify_conditions(conditions: Value) -> Result<PostAuthorization, AuthError> {
        let document = json!({"expiration": "2015-12-30T12:00:00.000Z", "conditions": conditions});
        verify_document(&document, &[])
    }

    #[test]
    fn a_form_that_meets_its_policy_is_its_signers() {
        let found = verify_conditions(conditions()).unwrap();
        assert_eq!(found.identity.unwrap().user.name, "alice");
        assert_eq!(found.len_range_bytes, Some((1, 1_024)));
    }

    #[test]
    fn every_field_needs_a_condition() {
        let document = json!({"expiration": "2015-12-30T12:00:00Z", "conditions": conditions()});
        for free in ["x-ignore-me", "x-amz-meta-tag", "x-amz-checksum-sha256"] {
            assert!(verify_document(&document, &[(free, "1")]).is_ok(), "{free}");
        }
        let error = verify_document(&document, &[("x-amz-meta-b", "1")]).unwrap_err();
        assert_eq!(error, not_met("Extra input fields: x-amz-meta-b"));
        let without_bucket = json!([["eq", "$key", "user/a.txt"], {"acl": "private"}]);
        let error = verify_conditions(without_bucket).unwrap_err();
        assert_eq!(error, not_met("Extra input fields: bucket"));
    }

    #[test]
    fn a_condition_that_fails_is_named() {
        for (condition, message) in [
            (
                json!({"bucket": "other"}),
                "[\"eq\", \"$bucket\", \"other\"]",
            ),
            (
                json!(["eq", "$acl", "public"]),
                "[\"eq\", \"$acl\", \"public\"]",
            ),
            (json!({"missing": "x"}), "[\"eq\", \"$missing\", \"x\"]"),
            (
                json!(["starts-with", "$missing", "x"]),
                "[\"starts-with\", \"$missing\", \"x\"]",
            ),
        ] {
            let mut all = conditions();
            all.as_array_mut().unwrap().push(condition);
            let error = verify_conditions(all).unwrap_err();
            assert_eq!(
                error,
                not_met(format!("Policy Condition failed: {message}"))
            );
        }
    }

    #[test]
    fn an_expired_policy_is_refused() {
        let document =
            json!({"expiration": "2015-12-29T00:00:00.000Z", "conditions": conditions()});
        let error = verify_document(&document, &[]).unwrap_err();
        assert_eq!(error, not_met("Policy expired."));
    }

    #[test]
    fn malformed_policies_are_told_apart_from_unmet_ones() {
        let good = "2015-12-30T12:00:00Z";
        for document in [
            json!({"conditions": conditions()}),
            json!({"EXPIRATION": good, "conditions": conditions()}),
            json!({"expiration": "2015-12-30 12:00:00+00:00", "conditions": conditions()}),
            json!({"expiration": good}),
            json!({"expiration": good, "CONDITIONS": conditions()}),
            json!({"expiration": good, "conditions": [{}]}),
            json!({"expiration": good, "conditions": [["content-length-range", 0]]}),
            json!({"expiration": good, "conditions": [["content-length-range", -1, 0]]}),
            json!({"expiration": good, "conditions": [["content-length-range", 2, 1]]}),
            json!({"expiration": good, "conditions": [["like", "$key", ""]]}),
            json!({"expiration": good, "conditions": [["eq", "key", ""]]}),
            json!([]),
        ] {
            let error = verify_document(&document, &[]).unwrap_err();
            assert!(
                matches!(error, AuthError::InvalidPolicyDocument(_)),
                "{document}: {error:?}"
            );
        }
    }

    fn verify_fields(fields: &[(&str, &str)]) -> Result<PostAuthorization, AuthError> {
        let own = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        let fields = FormFields::new(fields.iter().map(own).collect(), "a.txt");
        verify(
            &fields,
            "b",
            &directory_with(None, None),
            DAY,
            &AuthConfig::default(),
        )
    }

    #[test]
    fn a_v4_policy_is_verified() {
        let scope = format!("{KEY}/20151229/us-east-1/s3/aws4_request");
        let document = json!({"expiration": "2015-12-30T12:00:00.000Z", "conditions": [
            {"bucket": "b"}, {"key": "k"}, {"x-amz-credential": scope},
            {"x-amz-algorithm": "AWS4-HMAC-SHA256"}, {"x-amz-date": "20151229T000000Z"},
        ]});
        let policy = STANDARD.encode(document.to_string());
        let day_secs = u64::try_from(DAY.secs()).unwrap();
        let key = SigningKey::derive(SECRET, day_secs, "us-east-1", "s3");
        let signature = key.sign(policy.as_bytes());
        let mut fields = vec![
            ("key", "k"),
            ("policy", policy.as_str()),
            ("x-amz-credential", scope.as_str()),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-date", "20151229T000000Z"),
            ("x-amz-signature", signature.as_str()),
        ];
        assert!(verify_fields(&fields).unwrap().identity.is_some());
        let error = verify_fields(&fields[..5]).unwrap_err();
        assert!(matches!(error, AuthError::InvalidArgument { .. }));
        let other = signature.replace(&signature[..1], "g");
        fields[5].1 = &other;
        let error = verify_fields(&fields).unwrap_err();
        assert_eq!(error, AuthError::SignatureDoesNotMatch);
    }

    #[test]
    fn forms_without_policy_are_anonymous_or_malformed() {
        let found = verify_fields(&[("key", "k"), ("acl", "private")]).unwrap();
        assert!(found.identity.is_none());
        let error = verify_fields(&[("key", "k"), ("signature", "x")]).unwrap_err();
        assert!(matches!(
            error,
            AuthError::InvalidArgument { name: "policy", .. }
        ));
        let error = verify_fields(&[("policy", "e30="), ("AWSAccessKeyId", KEY)]).unwrap_err();
        assert!(matches!(
            error,
            AuthError::InvalidArgument {
                name: "signature",
                ..
            }
        ));
        let error = verify_fields(&[("policy", "e30="), ("AWSAccessKeyId", "foo")]).unwrap_err();
        assert!(matches!(error, AuthError::InvalidAccessKeyId { .. }));
    }
}
