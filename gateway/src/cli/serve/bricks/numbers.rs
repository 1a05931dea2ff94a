//! What is told of a volume of several bricks in numbers.

use fsstore::bricks::scrubber::ScrubState;
use fsstore::bricks::status::BrickState;

use super::Served;
use crate::metrics::{Kind, Text};

const STATES: [BrickState; 6] = [
    BrickState::Whole,
    BrickState::Healing,
    BrickState::Draining,
    BrickState::Drained,
    BrickState::Failed,
    BrickState::Missing,
];

fn number(count: usize) -> f64 {
    count as f64
}

impl Served {
    /// Writes how the volume is. Waits for disks that do not say how full they are.
    pub(in crate::cli::serve) fn tell(&self, text: &mut Text) {
        self.tell_volume(text);
        self.tell_scrub(text);
    }

    fn tell_volume(&self, text: &mut Text) {
        let status = self.status();
        let gauges = [
            ("portico_volume_groups", "Groups of names.", status.groups),
            (
                "portico_volume_short_groups",
                "Groups with fewer copies than they should have: what is to be healed.",
                status.short_groups,
            ),
            (
                "portico_volume_unreachable_groups",
                "Groups that cannot be read.",
                status.unreachable_groups,
            ),
            (
                "portico_volume_to_make_groups",
                "Copies of groups that are to be made.",
                status.to_make_groups,
            ),
            (
                "portico_volume_to_drop_groups",
                "Copies of groups that are to be given up.",
                status.to_drop_groups,
            ),
            (
                "portico_volume_rebalance_paused",
                "Whether what has all its copies stays where it is.",
                usize::from(status.is_rebalance_paused),
            ),
        ];
        for (name, help, value) in gauges {
            text.single(name, Kind::Gauge, help, number(value));
        }
        text.family("portico_brick_state", Kind::Gauge, "1 for what a brick is.");
        for brick in &status.bricks {
            let (id, dir) = (brick.number.to_string(), brick.dir.display().to_string());
            for state in STATES {
                let is_it = usize::from(state == brick.state);
                let state = state.to_string();
                let labels = [("brick", &*id), ("dir", &*dir), ("state", &*state)];
                text.sample(&labels, number(is_it));
            }
        }
        type Told = fn(&fsstore::bricks::status::BrickStatus) -> Option<f64>;
        let of_bricks: [(&str, &str, Told); 5] = [
            (
                "portico_brick_held_groups",
                "Groups of which a brick has a copy that counts.",
                |brick| Some(number(brick.held_groups)),
            ),
            (
                "portico_brick_wanted_groups",
                "Groups that a brick should have.",
                |brick| Some(number(brick.wanted_groups)),
            ),
            (
                "portico_brick_alone_groups",
                "Groups of which nothing else has a copy that counts.",
                |brick| Some(number(brick.alone_groups)),
            ),
            (
                "portico_brick_size_bytes",
                "Size of a brick's file system.",
                |brick| brick.size_bytes.map(|bytes| bytes as f64),
            ),
            (
                "portico_brick_free_bytes",
                "What is free on a brick's file system.",
                |brick| brick.free_bytes.map(|bytes| bytes as f64),
            ),
        ];
        for (name, help, told) in of_bricks {
            text.family(name, Kind::Gauge, help);
            for brick in &status.bricks {
                if let Some(value) = told(brick) {
                    text.sample(&[("brick", &brick.number.to_string())], value);
                }
            }
        }
    }

    fn tell_scrub(&self, text: &mut Text) {
        let scrub = self.inner.scrubber.status();
        let is_running = usize::from(scrub.state == ScrubState::Running);
        text.single(
            "portico_scrub_running",
            Kind::Gauge,
            "Whether everything is being read again.",
            number(is_running),
        );
        text.single(
            "portico_scrub_begun_timestamp_seconds",
            Kind::Gauge,
            "When the present scrub, or the last, began; 0 where none did.",
            scrub.begun_s as f64,
        );
        text.single(
            "portico_scrub_ended_timestamp_seconds",
            Kind::Gauge,
            "When it ended; 0 where it did not.",
            scrub.ended_s as f64,
        );
        text.family(
            "portico_scrub_objects",
            Kind::Gauge,
            "Objects of a brick that it has read.",
        );
        for brick in &scrub.bricks {
            text.sample(&[("brick", &brick.brick.to_string())], brick.objects as f64);
        }
        text.family(
            "portico_scrub_read_bytes",
            Kind::Gauge,
            "Bytes of a brick that it has read.",
        );
        for brick in &scrub.bricks {
            let brick_label = [("brick", &*brick.brick.to_string())];
            text.sample(&brick_label, brick.read_bytes as f64);
        }
        let rot = self.bricks.rot();
        for (name, help, count) in [
            (
                "portico_rot_found_total",
                "Copies that were not as they were written.",
                rot.found,
            ),
            (
                "portico_rot_mended_total",
                "Copies that were made anew from a good one.",
                rot.mended,
            ),
            (
                "portico_rot_lost_total",
                "Times that no good copy was found for a bad one.",
                rot.lost,
            ),
        ] {
            text.single(name, Kind::Counter, help, count as f64);
        }
    }
}
