//! The words after `-o`: ours, the kernel's, and those of /etc/fstab that mean nothing to us.

use std::path::PathBuf;

use crate::cli::CommandError;
use crate::config::nearest;
use crate::posix::mounting::MountOptions;

/// What the words ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) mount: MountOptions,
    /// Devices can be made, and opened.
    pub(super) devices: bool,
    /// A configuration file, as /etc/fstab has no other place for it.
    pub(super) config: Option<PathBuf>,
}

/// Words that are known, for finding the one that was meant. Source: mount(8).
const KNOWN: &[&str] = &[
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "allow_other",
    "devices",
    "config=",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "_netdev",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "diratime",
    "nodiratime",
    "async",
    "silent",
    "loud",
];

/// Reads the words; later ones go before earlier ones. `is_lenient` passes over unknown ones
/// (`mount -s`). Errors: an unknown word, named with the nearest known one.
pub(super) fn parse<'a>(
    lists: impl IntoIterator<Item = &'a str>,
    source: String,
    is_lenient: bool,
) -> Result<Wanted, CommandError> {
    let is_root = rustix::process::geteuid().is_root();
    let mut wanted = Wanted {
        mount: MountOptions {
            source,
            is_read_only: false,
            no_exec: false,
            no_suid: !is_root,
            no_dev: true,
            no_atime: false,
            allow_other: is_root,
        },
        devices: false,
        config: None,
    };
    let words = lists.into_iter().flat_map(|list| list.split(','));
    for word in words.filter(|word| !word.is_empty()) {
        if !wanted.take(word) && !is_lenient {
            return Err(unknown(word));
        }
    }
    wanted.mount.no_dev &= !wanted.devices;
    Ok(wanted)
}

fn unknown(word: &str) -> CommandError {
    let hint = match nearest(word, KNOWN) {
        Some(near) => format!("; the nearest known one is `{near}`"),
        None => String::new(),
    };
    CommandError::new(format!("unknown mount option `{word}`{hint}"))
}

impl Wanted {
    /// Takes one word; false where it is not known.
    fn take(&mut self, word: &str) -> bool {
        let mount = &mut self.mount;
        match word {
            "ro" => mount.is_read_only = true,
            "rw" => mount.is_read_only = false,
            "exec" => mount.no_exec = false,
            "noexec" => mount.no_exec = true,
            "suid" => mount.no_suid = false,
            "nosuid" => mount.no_suid = true,
            "dev" => mount.no_dev = false,
            "nodev" => mount.no_dev = true,
            "noatime" => mount.no_atime = true,
            "atime" => mount.no_atime = false,
            "allow_other" => mount.allow_other = true,
            "devices" => self.devices = true,
            // Said to mount(8) and systemd, or the kernel's default.
            "defaults" | "auto" | "noauto" | "nofail" | "nouser" | "owner" | "group"
            | "_netdev" | "relatime" | "norelatime" | "strictatime" | "nostrictatime"
            | "lazytime" | "nolazytime" | "diratime" | "nodiratime" | "async" | "silent"
            | "loud" => {}
            // Whoever may mount it is not trusted with more. Source: mount(8).
            "user" | "users" => {
                mount.no_exec = true;
                mount.no_suid = true;
                mount.no_dev = true;
            }
            _ => match word.split_once('=') {
                Some(("config", path)) => self.config = Some(PathBuf::from(path)),
                Some(("comment" | "user", _)) => {}
                _ => return word.starts_with("x-") || word.starts_with("X-"),
            },
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lists: &[&str]) -> Result<Wanted, CommandError> {
        parse(lists.iter().copied(), "s".to_owned(), false)
    }

    #[test]
    fn words_of_fstab_are_accepted() {
        let words = "rw,defaults,_netdev,nofail,noauto,x-systemd.automount,comment=a,relatime";
        assert_eq!(of(&[words]), of(&[]));
    }

    #[test]
    fn a_later_word_goes_before_an_earlier_one() {
        let wanted = of(&["ro,user", "rw,exec,,config=/etc/p.toml"]).unwrap();
        assert!(!wanted.mount.is_read_only && !wanted.mount.no_exec);
        assert!(wanted.mount.no_suid && wanted.mount.no_dev);
        assert_eq!(wanted.config, Some(PathBuf::from("/etc/p.toml")));
    }

    #[test]
    fn devices_are_made_and_opened_only_where_it_is_said() {
        assert!(of(&[]).unwrap().mount.no_dev);
        let wanted = of(&["devices"]).unwrap();
        assert!(wanted.devices && !wanted.mount.no_dev);
    }

    #[test]
    fn an_unknown_word_is_named_with_the_nearest_known_one() {
        let error = of(&["noexcec"]).unwrap_err();
        let wanted = "unknown mount option `noexcec`; the nearest known one is `noexec`";
        assert_eq!(error.text, wanted);
        parse(["noexcec"], "s".to_owned(), true).unwrap();
        of(&["remount"]).unwrap_err();
    }
}
