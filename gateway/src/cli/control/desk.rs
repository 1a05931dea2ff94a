//! Commands about a volume of several bricks, and who answers them: the server that has it.

use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Ask, Hello, HostKind, VERSION, Welcome, begin, connect, hear_next, other_version, say,
};
use crate::cli::CommandError;
use crate::cli::layout::Layout;

/// Longest answer, in bytes: what 64 bricks keep aside, named, is shorter.
const MAX_ANSWER_LEN_BYTES: u64 = 32 << 20;

/// What is asked of a volume of several bricks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VolumeAsk {
    /// How it is.
    Status,
    /// A directory is to become a brick of it.
    Add {
        /// Which, absolute.
        dir: PathBuf,
    },
    /// A brick that holds nothing is to go.
    Remove {
        /// Its number.
        brick: u32,
    },
    /// A brick is to be emptied, or no more.
    Drain {
        /// Its number.
        brick: u32,
        /// Whether it is to be filled again.
        is_undone: bool,
    },
    /// A directory is to take a brick's place.
    Replace {
        /// The brick's number.
        brick: u32,
        /// The directory, absolute.
        dir: PathBuf,
    },
    /// Whether what has enough copies may be moved.
    Rebalance {
        /// Whether it may not.
        is_paused: bool,
    },
    /// Everything read again.
    Scrub(ScrubAsk),
}

/// What is asked of a scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ScrubAsk {
    /// To begin, or to go on.
    Start,
    /// To wait.
    Pause,
    /// How far it is.
    Status,
}

/// Answers for a volume. May wait for disks.
pub(crate) trait Desk: Send + Sync + 'static {
    /// Does what is asked, or says how things are.
    fn answer(&self, ask: VolumeAsk) -> Result<Value, CommandError>;
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Done(Value),
    Failed(String),
}

/// Asks the server that has its own directory here. Errors: no server runs; it cannot be done.
pub(crate) fn ask(layout: &Layout, ask: VolumeAsk) -> Result<Value, CommandError> {
    match try_ask(layout, ask)? {
        Some(answer) => Ok(answer),
        None => {
            let shown = layout.dir().display();
            Err(CommandError::new(format!(
                "no portico serves {shown}: start `portico serve {shown}` first (its own directory is \
                 given by --dir, PORTICO_DIR or --config)"
            )))
        }
    }
}

/// As [`ask`]; none where no server runs.
pub(crate) fn try_ask(layout: &Layout, ask: VolumeAsk) -> Result<Option<Value>, CommandError> {
    let stream = match connect(&layout.state()) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(no_answer(error)),
    };
    talk(&stream, ask).map(Some)
}

fn is_nobody(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

fn no_answer(error: Error) -> CommandError {
    CommandError::new(format!("the server does not answer: {error}"))
}

fn talk(stream: &UnixStream, ask: VolumeAsk) -> Result<Value, CommandError> {
    let deadline = begin(stream).map_err(no_answer)?;
    let hello = Hello {
        portico: VERSION,
        ask: Ask::Volume(ask),
        attaches: false,
    };
    say(stream, &hello).map_err(no_answer)?;
    let welcome: Welcome = hear_next(stream, deadline).map_err(no_answer)?;
    if let Some(reason) = welcome.refused {
        return Err(CommandError::new(reason));
    }
    // What is asked may take a while: the server ends the talk, or ends.
    stream.set_read_timeout(None)?;
    let mut text = Vec::new();
    stream
        .take(MAX_ANSWER_LEN_BYTES)
        .read_to_end(&mut text)
        .map_err(no_answer)?;
    let outcome: Result<Outcome, _> = serde_json::from_slice(&text);
    match outcome.map_err(|error| no_answer(error.into()))? {
        Outcome::Done(value) => Ok(value),
        Outcome::Failed(reason) => Err(CommandError::new(reason)),
    }
}

/// Tells one who asks for a volume of several bricks that this is none.
pub(super) fn refuse(stream: &UnixStream, by: HostKind) -> Result<(), Error> {
    let reason = "this server's volume is one directory. `portico volume create --adopt` makes it the \
                  first brick of several, once the server is stopped";
    welcome(stream, by, Some(reason.to_owned()))
}

fn welcome(stream: &UnixStream, by: HostKind, refused: Option<String>) -> Result<(), Error> {
    let welcome = Welcome {
        portico: VERSION,
        by,
        pid: std::process::id(),
        refused,
        shares: false,
    };
    say(stream, &welcome)
}

/// Answers one who asks for something of the volume.
pub(super) fn attend(
    mut stream: &UnixStream,
    version: u32,
    ask: VolumeAsk,
    desk: &dyn Desk,
) -> Result<(), Error> {
    if version != VERSION {
        return welcome(stream, HostKind::Serve, Some(other_version(version)));
    }
    welcome(stream, HostKind::Serve, None)?;
    let outcome = match desk.answer(ask) {
        Ok(value) => Outcome::Done(value),
        Err(error) => Outcome::Failed(error.text),
    };
    stream.write_all(&serde_json::to_vec(&outcome)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::listen;
    use super::*;

    struct Echo;

    impl Desk for Echo {
        fn answer(&self, ask: VolumeAsk) -> Result<Value, CommandError> {
            match ask {
                VolumeAsk::Remove { brick } => Err(CommandError::new(format!("no {brick}"))),
                ask => Ok(json!(ask)),
            }
        }
    }

    #[test]
    fn a_command_is_answered_by_who_has_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create_own(dir.path()).unwrap();
        assert_eq!(try_ask(&layout, VolumeAsk::Status).unwrap(), None);
        let nobody = ask(&layout, VolumeAsk::Status).unwrap_err().text;
        assert!(nobody.contains("no portico serves"), "{nobody}");
        let listener = listen(&layout.state()).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let hello: Hello = hear_next(&stream, None).unwrap();
                let Ask::Volume(ask) = hello.ask else {
                    panic!("nobody asks for a mount");
                };
                attend(&stream, hello.portico, ask, &Echo).unwrap();
            }
        });
        let add = VolumeAsk::Add {
            dir: "/disk9".into(),
        };
        let answer = ask(&layout, add).unwrap();
        assert_eq!(answer, json!({"add": {"dir": "/disk9"}}));
        let refused = ask(&layout, VolumeAsk::Remove { brick: 7 }).unwrap_err();
        assert_eq!(refused.text, "no 7");
    }

    #[test]
    fn a_server_of_one_directory_says_what_it_is() {
        let (one, other) = UnixStream::pair().unwrap();
        let answering = std::thread::spawn(move || {
            let _: Hello = hear_next(&other, None).unwrap();
            refuse(&other, HostKind::Serve).unwrap();
        });
        let refused = talk(&one, VolumeAsk::Status).unwrap_err().text;
        assert!(refused.contains("--adopt"), "{refused}");
        answering.join().unwrap();
    }
}
