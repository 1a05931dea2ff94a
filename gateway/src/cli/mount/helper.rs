//! `mount.portico`: how mount(8) calls the helper of a file system that it does not know.
//!
//! ```text
//! mount.portico SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
//! ```
//!
//! Source: mount(8), "EXTERNAL HELPERS".

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::MountArgs;
use crate::cli::CommandError;

/// The name by which mount(8) calls.
const NAME: &str = "mount.portico";

/// Whether this process was called as the helper.
pub(in crate::cli) fn is_called(program: Option<&OsStr>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_name());
    name == Some(OsStr::new(NAME))
}

/// Reads the helper's arguments, without the program's name; none where nothing is to be done
/// (`-f`). Errors: the source or the target is missing.
pub(in crate::cli) fn parse(
    args: impl Iterator<Item = OsString>,
) -> Result<Option<MountArgs>, CommandError> {
    let mut mount = MountArgs {
        background: true,
        ..MountArgs::default()
    };
    let mut places = Vec::new();
    let mut is_fake = false;
    let mut args = args;
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let Some(flags) = text.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
            places.push(arg);
            continue;
        };
        let mut flags = flags.chars();
        while let Some(flag) = flags.next() {
            match flag {
                's' => mount.is_lenient = true,
                'f' => is_fake = true,
                'n' | 'v' => {}
                'o' | 't' | 'N' => {
                    let attached: String = flags.by_ref().collect();
                    let value = if attached.is_empty() {
                        args.next()
                            .map(|value| value.to_string_lossy().into_owned())
                    } else {
                        Some(attached)
                    };
                    let value = value.ok_or_else(|| {
                        CommandError::new(format!("{NAME}: -{flag} needs a value"))
                    })?;
                    if flag == 'o' {
                        mount.options.push(value);
                    }
                }
                _ => return Err(CommandError::new(format!("{NAME}: unknown flag -{flag}"))),
            }
        }
    }
    let [source, target] = &places[..] else {
        return Err(CommandError::new(format!(
            "{NAME} is called by mount(8): {NAME} SOURCE TARGET [-sfnv] [-o OPTIONS]"
        )));
    };
    mount.volume = source.to_string_lossy().into_owned();
    mount.mountpoint = PathBuf::from(target);
    Ok((!is_fake).then_some(mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Option<MountArgs>, CommandError> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn it_is_known_by_its_name() {
        assert!(is_called(Some(OsStr::new("/sbin/mount.portico"))));
        assert!(!is_called(Some(OsStr::new("/usr/bin/portico"))));
        assert!(!is_called(None));
    }

    #[test]
    fn mounts_words_are_understood() {
        let args = of(&[
            "/srv/p",
            "/mnt",
            "-nv",
            "-o",
            "ro,nofail",
            "-t",
            "portico",
            "-s",
        ]);
        let args = args.unwrap().unwrap();
        assert_eq!(args.volume, "/srv/p");
        assert_eq!(args.mountpoint, PathBuf::from("/mnt"));
        assert_eq!(args.options, ["ro,nofail"]);
        assert!(args.background && args.is_lenient);
        assert!(of(&["/srv/p", "/mnt", "-f"]).unwrap().is_none());
    }

    #[test]
    fn what_is_missing_is_an_error() {
        of(&["/srv/p"]).unwrap_err();
        of(&["/srv/p", "/mnt", "-o"]).unwrap_err();
        of(&["/srv/p", "/mnt", "-q"]).unwrap_err();
    }
}
