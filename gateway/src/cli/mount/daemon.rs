//! `--background`: a child goes on where the command comes back.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};

use super::MountArgs;
use crate::cli::CommandError;

/// Starts the child and waits until its mount stands, which it says on its standard output; or
/// until it has failed, which it says on standard error.
pub(super) fn start(args: &MountArgs) -> Result<(), CommandError> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(words(args))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut answer = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut answer)?;
    }
    if answer.is_empty() {
        child.wait()?;
        return Err(CommandError::new("nothing is mounted"));
    }
    std::io::stdout().write_all(&answer)?;
    Ok(())
}

fn words(args: &MountArgs) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["mount".into(), "--detached".into()];
    let flags = [(args.json, "--json"), (args.is_lenient, "--lenient")];
    words.extend(
        flags
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, word)| (*word).into()),
    );
    let paths = [("--dir", &args.dir), ("--config", &args.config)];
    for (word, path) in paths {
        if let Some(path) = path {
            words.extend([word.into(), path.into()]);
        }
    }
    for list in &args.options {
        words.extend(["-o".into(), list.into()]);
    }
    words.extend([
        "--".into(),
        (&args.volume).into(),
        (&args.mountpoint).into(),
    ]);
    words
}

/// Leaves the terminal's session, and the directory it was started in.
pub(super) fn detach() -> Result<(), CommandError> {
    // A leader of a group cannot: it has a session of its own then.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Lets go of standard output, which tells the waiting command that the mount stands, and of
/// standard error, save where systemd keeps what is written there.
pub(super) fn let_go() -> Result<(), CommandError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    std::io::stdout().flush()?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    if std::env::var_os("JOURNAL_STREAM").is_none() {
        rustix::stdio::dup2_stderr(null.as_fd())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        mount: MountArgs,
    }

    #[test]
    fn the_child_is_told_all_that_the_command_was() {
        let args = MountArgs {
            volume: "-v".to_owned(),
            mountpoint: "/mnt".into(),
            options: vec!["ro".to_owned(), "noexec,nofail".to_owned()],
            dir: Some("/srv".into()),
            json: true,
            is_lenient: true,
            ..MountArgs::default()
        };
        let told = Only::try_parse_from(words(&args)).unwrap().mount;
        let wanted = MountArgs {
            detached: true,
            ..args
        };
        assert_eq!(told, wanted);
    }
}
