//! Answers of commands: columns for people, one JSON document for scripts.

use std::io::Write;

use serde_json::Value;

use super::CommandError;

/// What a command answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// One thing: names and values, in order.
    One(Vec<(&'static str, Value)>),
    /// Things of one kind, each with these columns; a script gets an array of objects.
    Many {
        /// The columns.
        columns: &'static [&'static str],
        /// A row for each thing, as long as the columns.
        rows: Vec<Vec<Value>>,
    },
}

impl Answer {
    /// Writes the answer to standard output. A reader that closed the pipe has enough.
    pub(super) fn print(&self, json: bool) -> Result<(), CommandError> {
        let text = if json { self.json() } else { self.text() };
        match std::io::stdout().lock().write_all(text.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn json(&self) -> String {
        let value = match self {
            Self::One(fields) => object(fields.iter().map(|(name, value)| (*name, value))),
            Self::Many { columns, rows } => rows
                .iter()
                .map(|row| object(columns.iter().copied().zip(row)))
                .collect(),
        };
        format!("{value:#}\n")
    }

    fn text(&self) -> String {
        match self {
            Self::One(fields) => {
                let rows: Vec<_> = fields
                    .iter()
                    .map(|(name, value)| vec![(*name).to_owned(), cell(value)])
                    .collect();
                align(&rows)
            }
            Self::Many { columns, rows } => {
                let head = columns.iter().map(|name| name.to_uppercase()).collect();
                let body = rows.iter().map(|row| row.iter().map(cell).collect());
                align(&std::iter::once(head).chain(body).collect::<Vec<_>>())
            }
        }
    }
}

fn object<'a>(fields: impl Iterator<Item = (&'static str, &'a Value)>) -> Value {
    Value::Object(
        fields
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect(),
    )
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let pair = |(name, value): (&String, &Value)| format!("{name}={}", cell(value));
            fields.iter().map(pair).collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn many() -> Answer {
        Answer::Many {
            columns: &["name", "groups", "uid"],
            rows: vec![
                vec![json!("alice"), json!(["a", "b"]), json!(7)],
                vec![json!("bo"), json!([]), Value::Null],
            ],
        }
    }

    #[test]
    fn people_get_columns() {
        assert_eq!(
            many().text(),
            "NAME   GROUPS  UID\nalice  a,b     7\nbo             -\n"
        );
    }

    #[test]
    fn scripts_get_json() {
        let value: Value = serde_json::from_str(&many().json()).unwrap();
        assert_eq!(value[0]["groups"], json!(["a", "b"]));
        assert_eq!(value[1]["uid"], Value::Null);
        let one = Answer::One(vec![("len_bytes", json!(3))]);
        let value: Value = serde_json::from_str(&one.json()).unwrap();
        assert_eq!(value, json!({"len_bytes": 3}));
    }
}
