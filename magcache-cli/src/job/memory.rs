//! Whether a run fits this machine's memory, before it begins.

use std::sync::Arc;

use anyhow::Result;
use magcache_core::{
    CachePlan, HookRegistry, ModelMeta, Trajectory,
    schedule::{Sizes, most_bytes, simulate_sized},
};
use magcache_models::{
    pipeline::{Offload, Phase},
    ranks::{Launcher, Ranks},
};
use serde_json::{Value, json};

use super::Job;
use crate::{console::bad_input_with, machine, summary};

/// What a run will need, and what there is.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// Of one rank.
    phases: Vec<Phase>,
    /// Ranks on this machine.
    ranks: u64,
    /// Bytes that can be used without swapping, if the system says.
    available: Option<u64>,
}

/// The most bytes that caches hold at once; exact if their decisions are known ahead. `None` if that cannot
/// be known, as of a model that does not say its width.
pub(crate) fn cache_bytes(
    plan: CachePlan,
    registry: &Arc<HookRegistry>,
    meta: &ModelMeta,
    run: &Trajectory,
    sizes: &Sizes,
) -> Result<Option<usize>> {
    if meta.hidden_size == 0 {
        return Ok(None);
    }
    // An audited reuse also updates what a cache knows.
    if registry.is_static() && registry.audit().is_default() {
        return Ok(Some(simulate_sized(registry, meta, run, sizes)?.peak_bytes));
    }
    Ok(most_bytes(plan, meta, run, sizes)?)
}

impl Job {
    /// What the run needs with these caches; nothing is known of models that do not say.
    pub(crate) fn memory(&self, registry: &Arc<HookRegistry>) -> Result<Memory> {
        let mut phases = self.pipeline.memory(&self.request)?;
        if let Some(network) = phases.iter_mut().find(|phase| phase.everywhere)
            && !registry.is_empty()
        {
            let (meta, sizes) = (self.pipeline.meta(), self.pipeline.sizes(&self.request)?);
            let held = cache_bytes(self.config.caches()?, registry, meta, &self.trajectory, &sizes)?;
            // Of all ranks together: each holds what is about its own tokens, or its own branch.
            let ranks = self.ranks.as_ref().map_or(1, |ranks| ranks.layout().ranks());
            network.caches = held.unwrap_or_default().div_ceil(ranks) as u64;
        }
        let here = |ranks: &Ranks| {
            let launched = Launcher::find().filter(|launcher| launcher.size > 1);
            launched.map_or(ranks.layout().ranks(), |launcher| launcher.local_size.unwrap_or(1))
        };
        let ranks = self.ranks.as_ref().map_or(1, here) as u64;
        Ok(Memory { phases, ranks, available: machine::available_memory() })
    }

    /// Refuses a run on a CPU that does not fit.
    ///
    /// Errors: the numbers, and the option that would make it fit.
    pub(crate) fn check_memory(&self, registry: &Arc<HookRegistry>) -> Result<()> {
        let memory = self.memory(registry)?;
        let (Some(largest), Some(available)) = (memory.largest(), memory.available) else { return Ok(()) };
        if !self.device.is_cpu() || memory.here(largest) <= available {
            return Ok(());
        }
        let Phase { name, weights, scratch, activations, caches, everywhere } = *largest;
        let each = if everywhere && memory.ranks > 1 {
            format!("on each of {} ranks of this machine ", memory.ranks)
        } else {
            String::new()
        };
        let caches = if caches > 0 { format!(", {} of caches", size(caches)) } else { String::new() };
        let message = format!(
            "the {name} needs {each}{}: {} of weights, {} for its largest layer, {} of activations{caches}; this machine \
             has {} to spare",
            size(largest.total()),
            size(weights),
            size(scratch),
            size(activations),
            size(available)
        );
        Err(bad_input_with(message, self.remedy(largest, available / memory.ranks.max(1))))
    }

    /// The option that would make the phase fit.
    fn remedy(&self, phase: &Phase, available: u64) -> String {
        let Phase { name, weights, scratch, activations, .. } = *phase;
        if *name == *"autoencoder" && activations > available / 2 {
            return "--tile-vae bounds the memory of large frames".to_owned();
        }
        if weights + scratch < available {
            return "a smaller --size or fewer --frames".to_owned();
        }
        if self.ranks.as_ref().is_some_and(|ranks| ranks.layout().ulysses > 1) && !self.shard {
            return "--shard divides the weights among the ranks".to_owned();
        }
        if self.trajectory.phases.len() > 1 && weights / 2 + scratch + activations < available {
            return "--offload disk keeps one expert in memory at a time".to_owned();
        }
        if self.offload != Offload::Blocks && name == "transformer" {
            return "--offload blocks reads each block from its file when it runs".to_owned();
        }
        match name {
            "text encoder" => "a quantised text encoder: --text-encoder FILE.gguf".to_owned(),
            _ => "a quantised transformer: --transformer FILE.gguf (Q4_K takes less than a third of bf16); --force \
                  starts it all the same"
                .to_owned(),
        }
    }
}

impl Memory {
    fn largest(&self) -> Option<&Phase> {
        self.phases.iter().max_by_key(|phase| self.here(phase))
    }

    /// Bytes that a phase takes on this machine.
    fn here(&self, phase: &Phase) -> u64 {
        phase.total() * if phase.everywhere { self.ranks } else { 1 }
    }

    /// For people; empty if nothing is known.
    pub(crate) fn text(&self) -> Option<String> {
        let one = |phase: &Phase| {
            let each = if phase.everywhere && self.ranks > 1 { " on each rank" } else { "" };
            format!("{} {}{each} ({} of weights)", phase.name, size(phase.total()), size(phase.weights))
        };
        let phases: Vec<String> = self.phases.iter().map(one).collect();
        let available =
            self.available.map(|bytes| format!("; {} available", size(bytes))).unwrap_or_default();
        (!phases.is_empty()).then(|| format!("memory: {}{available}", phases.join(", ")))
    }

    pub(crate) fn json(&self) -> Value {
        let one = |phase: &Phase| {
            json!({
                "name": phase.name, "weights": phase.weights, "scratch": phase.scratch,
                "activations": phase.activations, "caches": phase.caches, "bytes": phase.total(),
                "everywhere": phase.everywhere,
            })
        };
        let phases: Vec<Value> = self.phases.iter().map(one).collect();
        json!({ "phases": phases, "ranks": self.ranks, "available": self.available })
    }
}

fn size(bytes: u64) -> String {
    summary::bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
}
