//! What each step fetched of blocks that are not kept in memory.

use std::time::Duration;

use magcache_core::error::count;
use magcache_models::{
    blocks::{Fetched, Traffic},
    pipeline::PassTime,
};
use serde_json::{Value, json};

use crate::summary;

/// Reads the counts after each step.
#[derive(Debug)]
pub(super) struct Meter {
    traffic: Traffic,
    before: Fetched,
    steps: Vec<(usize, Fetched)>,
}

impl Meter {
    /// Begins now.
    pub(super) fn new(traffic: &Traffic) -> Self {
        Self { traffic: traffic.clone(), before: traffic.fetched(), steps: Vec::new() }
    }

    /// Records what a step asked for. The block that it fetched ahead, for the next step that computes,
    /// counts as its own.
    pub(super) fn after_step(&mut self, step: usize) {
        let now = self.traffic.fetched();
        self.steps.push((step, now - self.before));
        self.before = now;
    }

    /// One line and one document; nothing for a run whose blocks are in memory.
    pub(super) fn report(&self, times: &[PassTime]) -> Option<(String, Value)> {
        let sum = |of: fn(&Fetched) -> u64| self.steps.iter().map(|(_, fetched)| of(fetched)).sum::<u64>();
        let (blocks, bytes) = (sum(|fetched| fetched.blocks), sum(|fetched| fetched.bytes));
        if blocks == 0 {
            return None;
        }
        let seconds = |step: usize| -> f64 {
            let passes = times.iter().filter(|time| time.step == step);
            passes.map(|time| time.time).sum::<Duration>().as_secs_f64()
        };
        let none = self.steps.iter().filter(|(_, fetched)| fetched.blocks == 0).count();
        let text = format!(
            "  {} fetched, {}; {none} of {} fetched none\n",
            count(usize::try_from(blocks).unwrap_or(usize::MAX), "block"),
            summary::bytes(usize::try_from(bytes).unwrap_or(usize::MAX)),
            count(self.steps.len(), "step"),
        );
        let one = |(step, fetched): &(usize, Fetched)| {
            let Fetched { blocks, bytes } = fetched;
            json!({ "step": step, "blocks": blocks, "bytes": bytes, "seconds": seconds(*step) })
        };
        let steps: Vec<Value> = self.steps.iter().map(one).collect();
        Some((text, json!({ "blocks": blocks, "bytes": bytes, "steps": steps })))
    }
}
