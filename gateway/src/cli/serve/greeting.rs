//! What a server says at its start: where it is, who may come in, and three lines to paste.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::users::Secret;

/// What is known at the start.
#[derive(Debug)]
pub(super) struct Greeting<'a> {
    /// The tree.
    pub(super) dir: &'a Path,
    /// Where the server listens.
    pub(super) listen: SocketAddr,
    /// True where it speaks TLS.
    pub(super) is_tls: bool,
    /// A name for it, where the configuration has one.
    pub(super) domain: Option<&'a str>,
    /// The region of signatures.
    pub(super) region: &'a str,
    /// The first user's keys.
    pub(super) keys: Keys<'a>,
}

/// What is to be said of the first user's keys.
#[derive(Debug)]
pub(super) enum Keys<'a> {
    /// Made just now: shown this once.
    New {
        /// The public part.
        access_key: &'a str,
        /// The secret part.
        secret_key: &'a Secret,
        /// The file that keeps them.
        kept_in: &'a Path,
    },
    /// In this file since an earlier start.
    KeptIn(&'a Path),
    /// Given by flag, variable or file.
    Given,
}

impl Greeting<'_> {
    /// `http://HOST:PORT`, as a client on this machine reaches it.
    pub(super) fn endpoint(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    fn authority(&self) -> String {
        let port = self.listen.port();
        match (self.domain, self.listen.ip()) {
            (Some(domain), _) if self.is_tls => format!("{domain}:{port}"),
            (_, ip) if ip.is_unspecified() => {
                SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port).to_string()
            }
            (_, ip) => SocketAddr::new(ip, port).to_string(),
        }
    }

    /// The text for standard output.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "Portico serves {}\n\n  endpoint    {}\n",
            self.dir.display(),
            self.endpoint()
        );
        match &self.keys {
            Keys::New {
                access_key,
                secret_key,
                kept_in,
            } => {
                let secret = secret_key.reveal();
                let _ = write!(
                    text,
                    "  access key  {access_key}\n  secret key  {secret}\n  kept in     {}\n\n{}",
                    kept_in.display(),
                    self.lines_to_paste(access_key, secret)
                );
            }
            Keys::KeptIn(path) => {
                let _ = writeln!(text, "  keys        in {}", path.display());
            }
            Keys::Given => text.push_str("  keys        as configured\n"),
        }
        text
    }

    fn lines_to_paste(&self, access: &str, secret: &str) -> String {
        let (endpoint, authority, region) = (self.endpoint(), self.authority(), self.region);
        let ssl = if self.is_tls { "--ssl" } else { "--no-ssl" };
        format!(
            "Lines to paste:\n\
             \x20 AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret} aws --endpoint-url \
             {endpoint} --region {region} s3 mb s3://first\n\
             \x20 s3cmd --access_key={access} --secret_key={secret} --host={authority} \
             --host-bucket={authority} {ssl} --region={region} ls\n\
             \x20 rclone lsd :s3: --s3-provider=Other --s3-access-key-id={access} \
             --s3-secret-access-key={secret} --s3-endpoint={endpoint} --s3-region={region}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting<'a>(listen: &str, keys: Keys<'a>) -> Greeting<'a> {
        Greeting {
            dir: Path::new("data"),
            listen: listen.parse().unwrap(),
            is_tls: false,
            domain: Some("s3.test"),
            region: "us-east-1",
            keys,
        }
    }

    #[test]
    fn the_first_start_shows_the_keys_and_a_line_for_each_client() {
        let secret = Secret::new("sesame-sesame");
        let text = greeting(
            "0.0.0.0:7480",
            Keys::New {
                access_key: "AK",
                secret_key: &secret,
                kept_in: Path::new("data/.portico/users.toml"),
            },
        )
        .text();
        assert!(text.contains("http://127.0.0.1:7480"), "{text}");
        assert!(text.contains("data/.portico/users.toml"));
        for client in ["aws ", "s3cmd ", "rclone "] {
            let line = text.lines().find(|line| line.contains(client)).unwrap();
            assert!(line.contains("AK") && line.contains("sesame-sesame"));
        }
    }

    #[test]
    fn a_later_start_says_where_the_keys_are() {
        let text = greeting("127.0.0.1:1", Keys::KeptIn(Path::new("kept"))).text();
        assert!(text.contains("in kept"), "{text}");
        assert!(!text.contains("secret"));
    }

    #[test]
    fn an_endpoint_is_one_a_client_can_reach() {
        let mut at = greeting("[::1]:80", Keys::Given);
        assert_eq!(at.endpoint(), "http://[::1]:80");
        at.is_tls = true;
        assert_eq!(at.endpoint(), "https://s3.test:80");
    }
}
