//! The text format of Prometheus.

use std::fmt::Write;

/// What a family of numbers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts below bounds.
    Histogram,
}

/// A page in the making: families, each followed by its samples.
#[derive(Debug, Default)]
pub struct Text {
    page: String,
    name: String,
}

impl Text {
    /// Begins a family. Each is begun once.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        name.clone_into(&mut self.name);
        // Writing to a string cannot fail.
        let _ = write!(self.page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A number of the family that was begun last.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.sample_of("", labels, value);
    }

    /// As [`Text::sample`], under the family's name with an ending (`_sum`).
    pub fn sample_of(&mut self, ending: &str, labels: &[(&str, &str)], value: f64) {
        self.page.push_str(&self.name);
        self.page.push_str(ending);
        let mut before = '{';
        for (label, text) in labels {
            let _ = write!(self.page, "{before}{label}=\"{}\"", escaped(text));
            before = ',';
        }
        if !labels.is_empty() {
            self.page.push('}');
        }
        let _ = writeln!(self.page, " {value}");
    }

    /// A family of one number.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// The page.
    pub fn finish(self) -> String {
        self.page
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::{Kind, Text};

    #[test]
    fn families_have_a_head_and_labels_are_escaped() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "How many.");
        text.sample(&[("dir", "/a\"b\\c\n"), ("n", "1")], 3.0);
        text.sample_of("_sum", &[], 0.5);
        text.single("b", Kind::Gauge, "How much.", 12_345_678_901.0);
        let page = "# HELP a_total How many.\n# TYPE a_total counter\n\
                    a_total{dir=\"/a\\\"b\\\\c\\n\",n=\"1\"} 3\na_total_sum 0.5\n\
                    # HELP b How much.\n# TYPE b gauge\nb 12345678901\n";
        assert_eq!(text.finish(), page);
    }
}
