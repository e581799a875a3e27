//! What the planner chose for a target, and how it is reported.

use magcache_core::profile::{Grounds, Quality};
use serde_json::{Value, json};

/// A speed-up counts as met if it is within this relative distance of the requested one.
const NEAR: f64 = 0.05;

/// The one target that was given.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    Budget(usize),
    Speedup(f64),
    Psnr(f64),
}

/// What the planner chose.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The `[[cache]]` tables that achieve it.
    pub(crate) tables: Vec<toml::Table>,
    /// Steps computed; a fraction where branches differ.
    pub(super) computed: f64,
    pub(super) steps: usize,
    /// Speed-up of the network from the profile's times, or the ceiling if it has none.
    pub(super) speedup: f64,
    /// Quality against a dense run, if the profile records it.
    pub(super) quality: Option<Quality>,
    /// Why the target is not met exactly.
    pub(crate) short: Option<String>,
    /// The profile that planned it; `None` for a strategy's threshold.
    pub(crate) planned_by: Option<String>,
}

impl Chosen {
    /// The choice in one line.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "planned: {} of {} steps computed, network {:.2}x as fast",
            (self.computed * 10.0).round() / 10.0,
            self.steps,
            self.speedup
        );
        if let Some(Quality { psnr, within, grounds }) = self.quality {
            let within = within.map_or(String::new(), |within| format!(" ±{within:.1}"));
            let how = match grounds {
                Grounds::Measured => "measured",
                Grounds::Calibrated => "from schedules that were measured",
                Grounds::Predicted => "predicted, a bound",
            };
            text += &format!(", {psnr:.1} dB{within} against a dense run ({how})");
        }
        text
    }

    /// The choice for `--json`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "computed": self.computed,
            "steps": self.steps,
            "speedup": self.speedup,
            "psnr": self.quality.map(|quality| quality.psnr),
            "psnr_within": self.quality.and_then(|quality| quality.within),
            "psnr_grounds": self.quality.map(|quality| quality.grounds),
            "short": self.short,
        })
    }
}

/// The nearest reachable speed-ups around one that cannot be reached.
pub(super) fn missed(asked: f64, got: f64, all: impl Iterator<Item = f64>) -> Option<String> {
    if (got / asked - 1.0).abs() <= NEAR {
        return None;
    }
    let (mut below, mut above) = (1.0_f64, f64::INFINITY);
    for speedup in all {
        if speedup <= asked {
            below = below.max(speedup);
        } else {
            above = above.min(speedup);
        }
    }
    let nearest = if above.is_finite() {
        format!("the nearest are {below:.2}x and {above:.2}x")
    } else {
        format!("the nearest is {below:.2}x")
    };
    Some(format!("{asked}x cannot be had: {nearest}"))
}
