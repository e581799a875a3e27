//! Whether a run fits this machine's memory, before it begins.

use anyhow::Result;
use magcache_models::pipeline::Phase;
use serde_json::{Value, json};

use super::Job;
use crate::{console::bad_input_with, machine, summary};

/// What a run will need, and what there is.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    phases: Vec<Phase>,
    /// Bytes that can be used without swapping, if the system says.
    available: Option<u64>,
}

impl Job {
    /// What the run needs; nothing is known of models that do not say.
    pub(crate) fn memory(&self) -> Result<Memory> {
        Ok(Memory { phases: self.pipeline.memory(&self.request)?, available: machine::available_memory() })
    }

    /// Refuses a run on a CPU that does not fit.
    ///
    /// Errors: the numbers, and the option that would make it fit.
    pub(crate) fn check_memory(&self) -> Result<()> {
        let memory = self.memory()?;
        let (Some(largest), Some(available)) = (memory.largest(), memory.available) else { return Ok(()) };
        if !self.device.is_cpu() || largest.total() <= available {
            return Ok(());
        }
        let Phase { name, weights, scratch, activations } = *largest;
        let message = format!(
            "the {name} needs {}: {} of weights, {} for its largest layer, {} of activations; this machine has {} to \
             spare",
            size(largest.total()),
            size(weights),
            size(scratch),
            size(activations),
            size(available)
        );
        Err(bad_input_with(message, self.remedy(largest, available)))
    }

    /// The option that would make the phase fit.
    fn remedy(&self, phase: &Phase, available: u64) -> String {
        let Phase { name, weights, scratch, activations } = *phase;
        if *name == *"autoencoder" && activations > available / 2 {
            return "--tile-vae bounds the memory of large frames".to_owned();
        }
        if weights + scratch < available {
            return "a smaller --size or fewer --frames".to_owned();
        }
        if self.trajectory.phases.len() > 1 && weights / 2 + scratch + activations < available {
            return "--offload disk keeps one expert in memory at a time".to_owned();
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
        self.phases.iter().max_by_key(|phase| phase.total())
    }

    /// For people; empty if nothing is known.
    pub(crate) fn text(&self) -> Option<String> {
        let one = |phase: &Phase| {
            format!("{} {} ({} of weights)", phase.name, size(phase.total()), size(phase.weights))
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
                "activations": phase.activations, "bytes": phase.total(),
            })
        };
        json!({ "phases": self.phases.iter().map(one).collect::<Vec<_>>(), "available": self.available })
    }
}

fn size(bytes: u64) -> String {
    summary::bytes(usize::try_from(bytes).unwrap_or(usize::MAX))
}
