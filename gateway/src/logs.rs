//! Logs: tracing to standard error, as text or as one JSON object per line.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged unless it is said otherwise: all that an administrator has to know, but not
/// every request.
const DEFAULT_LEVEL: &str = "info,portico::access=warn";

/// How logs look and what they contain.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Text for people, JSON for programs.
    pub format: LogFormat,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as
    /// `info,portico::access=warn`, which leaves out the line for each request.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: DEFAULT_LEVEL.to_owned(),
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Logs that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` is neither a level nor directives.
    #[error("log.level `{level}` is not understood: {source}")]
    Level {
        /// What was given.
        level: String,
        /// What the reader says.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a subscriber already.
    #[error("logs are set up already")]
    Twice,
}

/// Sends the process's logs to standard error, and panics to the logs. Errors: Level, Twice.
pub fn install(config: &LogConfig) -> Result<(), LogError> {
    let subscriber = subscriber(config, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(target: "portico::panic", "{panic}\n{backtrace}");
    }));
    Ok(())
}

fn subscriber<W>(
    config: &LogConfig,
    to: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&config.level)
        .map_err(|source| LogError::Level {
            level: config.level.clone(),
            source,
        })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(to);
    Ok(match config.format {
        LogFormat::Text => Box::new(lines.with_ansi(false).finish()),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str) -> String {
        let memory = Memory::default();
        let config = LogConfig {
            format,
            level: level.to_owned(),
        };
        let writer = memory.clone();
        let subscriber = subscriber(&config, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(bucket = "b", "told");
            tracing::debug!("untold");
        });
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_logs_are_one_object_per_line() {
        let text = logged(LogFormat::Json, "info");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["message"], "told");
        assert_eq!(lines[0]["bucket"], "b");
    }

    #[test]
    fn a_level_leaves_out_what_is_below_it() {
        assert!(logged(LogFormat::Text, "info").contains("told"));
        assert!(!logged(LogFormat::Text, "info").contains("untold"));
        assert_eq!(logged(LogFormat::Text, "error"), "");
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        let config = LogConfig {
            format: LogFormat::Text,
            level: "portico=loudest".to_owned(),
        };
        assert!(matches!(
            subscriber(&config, std::io::sink),
            Err(LogError::Level { .. })
        ));
    }
}
