//! SigV4 request heads, made before the clock starts.

use std::fmt::Write as _;
use std::time::SystemTime;

use aws_sigv4::sign::v4::{calculate_signature, generate_signing_key};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

/// The region that both servers are told.
pub const REGION: &str = "us-east-1";
/// What stands for the digest of a body that is not signed.
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Signs requests to one server with one key.
#[derive(Debug, Clone)]
pub struct Signer {
    host: String,
    access_key: String,
    signing_key: Vec<u8>,
    stamp: String,
}

impl Signer {
    /// A signer for now: what it signs is good for a quarter of an hour.
    pub fn new(host: &str, access_key: &str, secret_key: &str) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a client's signatures name the time"
        )]
        let now = SystemTime::now();
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let stamp = OffsetDateTime::from(now)
            .format(format)
            .expect("a date of this century has this form");
        Self {
            host: host.to_owned(),
            access_key: access_key.to_owned(),
            signing_key: generate_signing_key(secret_key, now, REGION, "s3")
                .as_ref()
                .to_vec(),
            stamp,
        }
    }

    /// Request line and headers, signed. `query` is canonical already: sorted, escaped, without
    /// `?`; `path` needs no escapes. Source: S3 API, sig-v4-header-based-auth.
    pub fn head(
        &self,
        method: &str,
        path: &str,
        query: &str,
        payload: &str,
        len_bytes: u64,
    ) -> Vec<u8> {
        let Self { host, stamp, .. } = self;
        let names = "host;x-amz-content-sha256;x-amz-date";
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n\n{names}\n{payload}"
        );
        let scope = format!("{}/{REGION}/s3/aws4_request", &stamp[..8]);
        let text = format!(
            "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
            sha256(canonical.as_bytes())
        );
        let signature = calculate_signature(&self.signing_key, text.as_bytes());
        let target = if query.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{query}")
        };
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nx-amz-content-sha256: {payload}\r\nx-amz-date: {stamp}\r\nContent-Length: {len_bytes}\r\nAuthorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}\r\n\r\n",
            self.access_key
        )
        .into_bytes()
    }
}
