//! Whether a run fits the memory of its device, before it begins.

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

use super::{Job, tables};
use crate::{args::MemoryLimit, console::bad_input_with, machine, summary};

/// What a run will need, and what there is.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    /// Of one rank.
    phases: Vec<Phase>,
    /// Ranks on this machine.
    ranks: u64,
    /// What it may take.
    room: Room,
}

/// What a run may take.
#[derive(Clone, Copy, Debug)]
enum Room {
    /// What `--memory` says.
    Limit(u64),
    /// Bytes that the device has free; of a CPU those that can be used without swapping.
    Free { bytes: u64, of_gpu: bool },
    /// As much as it needs: it was asked for, or nothing is known of the device.
    Any,
}

/// The caches of one of the runs that are in memory together.
pub(crate) type Caches<'c> = (&'c CachePlan, &'c Arc<HookRegistry>);

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
    /// What a run needs with these caches at the same time; nothing is known of models that do not say.
    pub(crate) fn memory(&self, caches: &[Caches<'_>], limit: Option<MemoryLimit>) -> Result<Memory> {
        let mut phases = self.pipeline.memory(&self.request)?;
        if let Some(network) = phases.iter_mut().find(|phase| phase.everywhere) {
            let (meta, sizes) = (self.pipeline.meta(), self.pipeline.sizes(&self.request)?);
            let mut held = 0;
            for (plan, registry) in caches.iter().filter(|(_, registry)| !registry.is_empty()) {
                let own = CachePlan::from_tables(tables(plan)?, self.config.residuals.clone())?;
                let own = CachePlan { audit: plan.audit, ..own };
                let own = cache_bytes(own, registry, meta, &self.trajectory, &sizes)?;
                held += own.unwrap_or_default();
            }
            // Of all ranks together: each holds what is about its own tokens, or its own branch.
            let ranks = self.ranks.as_ref().map_or(1, |ranks| ranks.layout().ranks());
            network.caches = held.div_ceil(ranks) as u64;
        }
        let here = |ranks: &Ranks| {
            let launched = Launcher::find().filter(|launcher| launcher.size > 1);
            launched.map_or(ranks.layout().ranks(), |launcher| launcher.local_size.unwrap_or(1))
        };
        // Each has a GPU of its own.
        let of_gpu = !self.device.is_cpu();
        let ranks = self.ranks.as_ref().filter(|_| !of_gpu).map_or(1, here) as u64;
        let room = match limit {
            Some(MemoryLimit::Unchecked) => Room::Any,
            Some(MemoryLimit::Bytes(bytes)) => Room::Limit(bytes),
            None => {
                machine::free_memory(&self.device).map_or(Room::Any, |bytes| Room::Free { bytes, of_gpu })
            }
        };
        Ok(Memory { phases, ranks, room })
    }

    /// Refuses runs that do not fit, before anything large is read; `caches` are those that are in memory at
    /// the same time.
    ///
    /// # Errors
    /// What is needed and what there is, what takes most, and the option that would make it fit.
    pub(crate) fn admit(&self, caches: &[Caches<'_>], limit: Option<MemoryLimit>) -> Result<()> {
        let memory = self.memory(caches, limit)?;
        let (Some(largest), Some(room)) = (memory.largest(), memory.room.bytes()) else { return Ok(()) };
        if memory.here(largest) <= room {
            return Ok(());
        }
        let Phase { name, weights, scratch, activations, caches, everywhere } = *largest;
        let each = if everywhere && memory.ranks > 1 {
            format!("on each of {} ranks of this machine ", memory.ranks)
        } else {
            String::new()
        };
        let mut parts = [
            (weights, "of weights"),
            (scratch, "for its largest layer"),
            (activations, "of activations"),
            (caches, "of caches"),
        ];
        parts.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(bytes, _)| *bytes > 0)
            .map(|(bytes, what)| format!("{} {what}", size(bytes)))
            .collect();
        let message = format!(
            "the {name} needs {each}{}: {}; {}",
            size(largest.total()),
            parts.join(", "),
            memory.room.text()
        );
        Err(bad_input_with(message, self.remedy(largest, room / memory.ranks.max(1))))
    }

    /// The option that would make the phase fit.
    fn remedy(&self, phase: &Phase, available: u64) -> String {
        let Phase { name, weights, scratch, activations, caches, .. } = *phase;
        if caches > 0 && phase.total() - caches <= available {
            return "`budget` in [residuals] bounds what caches hold, `dtype = \"bf16\"` there halves it"
                .to_owned();
        }
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
            _ => "a quantised transformer: --transformer FILE.gguf (Q4_K takes less than a third of bf16); --memory \
                  unchecked starts it all the same"
                .to_owned(),
        }
    }
}

impl Room {
    /// `None` without a limit.
    fn bytes(self) -> Option<u64> {
        match self {
            Self::Limit(bytes) | Self::Free { bytes, .. } => Some(bytes),
            Self::Any => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Limit(bytes) => format!("--memory allows {}", size(bytes)),
            Self::Free { bytes, of_gpu: true } => format!("the GPU has {} free", size(bytes)),
            Self::Free { bytes, of_gpu: false } => format!("this machine has {} to spare", size(bytes)),
            Self::Any => "nothing limits it".to_owned(),
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

    /// `None` if that cannot be told.
    fn fits(&self) -> Option<bool> {
        Some(self.here(self.largest()?) <= self.room.bytes()?)
    }

    /// For people; empty if nothing is known.
    pub(crate) fn text(&self) -> Option<String> {
        let one = |phase: &Phase| {
            let each = if phase.everywhere && self.ranks > 1 { " on each rank" } else { "" };
            format!("{} {}{each} ({} of weights)", phase.name, size(phase.total()), size(phase.weights))
        };
        let phases: Vec<String> = self.phases.iter().map(one).collect();
        let room = self.room.bytes().map_or(String::new(), |_| format!("; {}", self.room.text()));
        (!phases.is_empty()).then(|| format!("memory: {}{room}", phases.join(", ")))
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
        json!({
            "phases": phases, "ranks": self.ranks, "available": self.room.bytes(), "fits": self.fits(),
        })
    }
}

fn size(bytes: u64) -> String {
    summary::bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
}
