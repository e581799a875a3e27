//! The decisions of caches that look only at the step, computed before a run.

use std::sync::Arc;

use anyhow::Result;
use magcache_core::{
    HookRegistry, ModelMeta, Trajectory,
    log::DecisionLog,
    schedule::{Sizes, simulate, simulate_sized},
};

use crate::console::bad_input_with;

/// Every decision of a run; `sizes` are the sizes of its tensors, if known.
pub(crate) fn decisions(
    registry: &Arc<HookRegistry>,
    model: &ModelMeta,
    run: &Trajectory,
    sizes: Option<&Sizes>,
) -> Result<DecisionLog> {
    match (registry.storage().budget, sizes) {
        (None, _) => Ok(simulate(registry, model, run)?),
        (Some(_), Some(sizes)) => Ok(simulate_sized(registry, model, run, sizes)?.log),
        (Some(budget), None) => {
            let message = format!(
                "what a budget of {budget} bytes drops follows from the size of what is made, which a profile does not say"
            );
            Err(bad_input_with(message, "--model DIR, or remove `budget` from [residuals]"))
        }
    }
}
