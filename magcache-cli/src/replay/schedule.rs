//! The data needed to replay decisions as a schedule: which blocks, which forecast, and which steps.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use magcache_core::{
    HookRegistry, Step,
    chain::Ring,
    config::{FixedSteps, Skips},
    forecast::{ForecastTable, OutputConfig, ResidualConfig, forecast_table},
    state::HookId,
};
use serde::{Deserialize, Serialize};

use crate::console::bad_input_with;

/// The value of `at` for all blocks, and also for the whole forward.
const ALL: &str = "all";
pub(crate) const FORWARD: &str = "forward";

/// What a hook surrounds, as traces write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Around {
    Blocks,
    /// A module inside every block that has it.
    Modules,
    Forward,
}

/// A hook of a registry, with what is needed to replay its decisions.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub(crate) around: Around,
    /// The `forecast` table that matches the hook's forecast; `None` if none does.
    pub(crate) forecast: Option<toml::Table>,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) blocks: [usize; 2],
    pub(crate) branch: String,
    pub(crate) step: usize,
    pub(crate) reused: bool,
}

/// Skipped steps by branch; a branch that skips none has an empty list.
pub(crate) type Skipped = BTreeMap<String, BTreeSet<usize>>;

/// A schedule and the blocks it applies to.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    pub(crate) around: Around,
    /// The value of `at`; `None` means all blocks.
    pub(crate) at: Option<String>,
    pub(crate) forecast: toml::Table,
    pub(crate) experts: Option<Vec<String>>,
    pub(crate) skip: Skipped,
    /// Number of steps of the run it is for.
    pub(crate) steps: usize,
}

/// The hook with this id in a registry, for a run that `step` belongs to.
pub(crate) fn hook(registry: &HookRegistry, id: HookId, step: &Step) -> Option<Hook> {
    let ring = registry.all().find(|ring| ring.id == id)?;
    let among = |rings: &[Ring]| rings.iter().any(|ring| ring.id == id);
    let around = if among(registry.forward_rings()) {
        Around::Forward
    } else if registry.module_rings().iter().any(|module| among(module.rings())) {
        Around::Modules
    } else {
        Around::Blocks
    };
    Some(Hook { around, forecast: ring.hook.stand_in(step) })
}

/// The forecast for replaying what `strategy` skipped.
pub(crate) fn forecast(place: &str, forecast: Option<toml::Table>) -> Result<toml::Table> {
    forecast.ok_or_else(|| {
        let message =
            format!("{place}: what stands in for skipped steps is the strategy's own, no schedule has it");
        bad_input_with(message, "run the strategy itself again")
    })
}

/// The range of blocks that was skipped, with the skipped steps; `None` if nothing was skipped. A schedule
/// names only steps and branches, so it must be one range, or the same steps for the module of every block.
pub(crate) fn skipped(
    place: &str,
    around: Around,
    seen: impl Iterator<Item = Seen>,
) -> Result<Option<([usize; 2], Skipped)>> {
    let mut by_blocks: BTreeMap<[usize; 2], Skipped> = BTreeMap::new();
    for Seen { blocks, branch, step, reused } in seen {
        let steps = by_blocks.entry(blocks).or_default().entry(branch).or_default();
        if reused {
            steps.insert(step);
        }
    }
    if around != Around::Modules {
        by_blocks.retain(|_, skipped| skipped.values().any(|steps| !steps.is_empty()));
    }
    let ranges = by_blocks.len();
    let mut all = by_blocks.into_iter();
    let Some(first) = all.next() else { return Ok(None) };
    let other = all.find(|other| around != Around::Modules || other.1 != first.1);
    let Some(([block, _], _)) = other else { return Ok(Some(first)) };
    let message = match around {
        Around::Modules => {
            let [first, _] = first.0;
            format!(
                "{place}: the modules of block {first} and of block {block} were skipped at different steps"
            )
        }
        _ => format!("{place}: {ranges} ranges of blocks were skipped, one can be replayed"),
    };
    Err(bad_input_with(message, "run the strategy itself again, or trace a single cache"))
}

impl Around {
    /// The default forecast of a table.
    fn default_forecast(self) -> Option<ForecastTable> {
        match self {
            Self::Blocks | Self::Forward => forecast_table(&ResidualConfig {}),
            Self::Modules => forecast_table(&OutputConfig {}),
        }
    }
}

impl Replay {
    pub(crate) fn table(&self) -> Result<toml::Table> {
        let Self { around, at, forecast, experts, skip, steps } = self;
        let list = |steps: &BTreeSet<usize>| steps.iter().copied().collect();
        let skips = match self.shared() {
            Some(steps) => Skips::All(list(&steps)),
            None => Skips::ByBranch(skip.iter().map(|(name, steps)| (name.clone(), list(steps))).collect()),
        };
        let mut table = FixedSteps::registered()?.table(skips, Some(*steps))?;
        table.extend(at.as_ref().map(|at| ("at".to_owned(), at.clone().into())));
        table.extend(experts.as_ref().map(|experts| ("experts".to_owned(), experts.clone().into())));
        if around.default_forecast().as_ref() != Some(forecast) {
            table.insert("forecast".to_owned(), toml::Value::Table(forecast.clone()));
        }
        Ok(table)
    }

    /// A mask with 0 for each skipped step and 1 for each other one.
    pub(crate) fn mask(&self) -> Result<String> {
        let hint = "--export FILE.toml says all of it";
        if let Some(at) = self.at.as_deref().filter(|at| *at != ALL) {
            let message = format!("a mask is for all blocks, this schedule is around {at:?}");
            return Err(bad_input_with(message, hint));
        }
        let Some(skip) = self.shared() else {
            let message = "the guidance branches skip different steps, a mask is one for all of them";
            return Err(bad_input_with(message, hint));
        };
        let all: Vec<&str> =
            (0..self.steps).map(|step| if skip.contains(&step) { "0" } else { "1" }).collect();
        Ok(format!("[{}]\n", all.join(", ")))
    }

    /// The steps that every branch skips, if they are the same for all.
    fn shared(&self) -> Option<BTreeSet<usize>> {
        let mut branches = self.skip.values();
        let first = branches.next().cloned().unwrap_or_default();
        branches.all(|other| *other == first).then_some(first)
    }
}
