//! Requests, counted as their answers end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::text::{Kind, Text};

/// Upper bounds of the histogram, in seconds.
const BOUNDS_S: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// A request that ended.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// What came in by (`s3`).
    pub door: &'static str,
    /// What was asked, as the door's protocol names it.
    pub operation: &'static str,
    /// The answer's status.
    pub status: u16,
    /// From the head of the request to the end of the answer.
    pub took: Duration,
    /// Length of the request's body.
    pub received_bytes: u64,
    /// Length of the answer's body, as far as it was sent.
    pub sent_bytes: u64,
}

#[derive(Debug, Default)]
struct Timed {
    below: [u64; BOUNDS_S.len()],
    count: u64,
    sum_s: f64,
    received_bytes: u64,
    sent_bytes: u64,
}

type What = (&'static str, &'static str);

#[derive(Debug, Default)]
struct Counts {
    answers: BTreeMap<(What, u16), u64>,
    timed: BTreeMap<What, Timed>,
}

/// See the module. One lock, held for a few additions.
#[derive(Debug, Default)]
pub struct Meter {
    counts: Mutex<Counts>,
    connections: AtomicU64,
    under_way: AtomicU64,
}

impl Meter {
    /// A request began.
    pub fn begun(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that began has ended.
    pub fn ended(&self, request: &Measured) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let what = (request.door, request.operation);
        *counts.answers.entry((what, request.status)).or_default() += 1;
        let timed = counts.timed.entry(what).or_default();
        let took_s = request.took.as_secs_f64();
        for (below, bound) in timed.below.iter_mut().zip(BOUNDS_S) {
            *below += u64::from(took_s <= bound);
        }
        timed.count += 1;
        timed.sum_s += took_s;
        timed.received_bytes += request.received_bytes;
        timed.sent_bytes += request.sent_bytes;
    }

    /// A connection was opened; or closed.
    pub fn connected(&self, is_open: bool) {
        match is_open {
            true => self.connections.fetch_add(1, Ordering::Relaxed),
            false => self.connections.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Writes what was counted.
    pub fn tell(&self, text: &mut Text) {
        let number = |count: u64| count as f64;
        let open = number(self.connections.load(Ordering::Relaxed));
        text.single(
            "portico_connections",
            Kind::Gauge,
            "Connections that are open.",
            open,
        );
        let under_way = number(self.under_way.load(Ordering::Relaxed));
        text.single(
            "portico_requests_in_flight",
            Kind::Gauge,
            "Requests under way, until their answers end.",
            under_way,
        );
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        text.family(
            "portico_requests_total",
            Kind::Counter,
            "Requests answered.",
        );
        for (((door, operation), status), count) in &counts.answers {
            let labels = [
                ("door", *door),
                ("operation", *operation),
                ("status", &status.to_string()),
            ];
            text.sample(&labels, number(*count));
        }
        let of = |(door, operation): &What| [("door", *door), ("operation", *operation)];
        text.family(
            "portico_request_duration_seconds",
            Kind::Histogram,
            "From the head of a request to the end of its answer.",
        );
        for (what, timed) in &counts.timed {
            let [door, operation] = of(what);
            for (below, bound) in timed.below.iter().zip(BOUNDS_S) {
                let labels = [door, operation, ("le", &bound.to_string())];
                text.sample_of("_bucket", &labels, number(*below));
            }
            let all = [door, operation, ("le", "+Inf")];
            text.sample_of("_bucket", &all, number(timed.count));
            text.sample_of("_sum", &[door, operation], timed.sum_s);
            text.sample_of("_count", &[door, operation], number(timed.count));
        }
        text.family(
            "portico_received_bytes_total",
            Kind::Counter,
            "Length of requests' bodies.",
        );
        for (what, timed) in &counts.timed {
            text.sample(&of(what), number(timed.received_bytes));
        }
        text.family(
            "portico_sent_bytes_total",
            Kind::Counter,
            "Length of answers' bodies, as far as they were sent.",
        );
        for (what, timed) in &counts.timed {
            text.sample(&of(what), number(timed.sent_bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Measured, Meter};
    use crate::metrics::Text;

    #[test]
    fn requests_are_told_by_operation_and_status_with_their_times() {
        let meter = Meter::default();
        for (status, took_ms) in [(200, 3), (200, 700), (404, 0)] {
            meter.begun();
            meter.ended(&Measured {
                door: "s3",
                operation: "GetObject",
                status,
                took: Duration::from_millis(took_ms),
                received_bytes: 0,
                sent_bytes: 10,
            });
        }
        meter.begun();
        meter.connected(true);
        let mut text = Text::default();
        meter.tell(&mut text);
        let page = text.finish();
        let of = "door=\"s3\",operation=\"GetObject\"";
        for line in [
            "portico_connections 1".to_owned(),
            "portico_requests_in_flight 1".to_owned(),
            format!("portico_requests_total{{{of},status=\"200\"}} 2"),
            format!("portico_requests_total{{{of},status=\"404\"}} 1"),
            format!("portico_request_duration_seconds_bucket{{{of},le=\"0.005\"}} 2"),
            format!("portico_request_duration_seconds_bucket{{{of},le=\"+Inf\"}} 3"),
            format!("portico_request_duration_seconds_count{{{of}}} 3"),
            format!("portico_sent_bytes_total{{{of}}} 30"),
        ] {
            assert!(page.lines().any(|found| found == line), "{line}\n{page}");
        }
    }
}
