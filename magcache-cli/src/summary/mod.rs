//! A summary of a run: passes computed and skipped, by expert and branch, with reasons.

mod audit;
mod passes;
pub(crate) mod strip;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::passes::Passes;
use magcache_core::{
    Branch, Expert, HookRegistry, ModelMeta, Trajectory,
    error::count,
    log::{DecisionLog, Record},
    schedule,
};
use magcache_models::pipeline::Generation;
use serde_json::{Value, json};

/// Decisions about one module, over all blocks that have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Module {
    /// How often it ran.
    pub(crate) computed: usize,
    /// How often its output was forecast.
    pub(crate) forecast: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) parts: BTreeMap<(Expert, Branch), Passes>,
    /// Modules inside blocks, by name: a forecast there is not a skipped pass.
    pub(crate) modules: BTreeMap<String, Module>,
    pub(crate) failsafes: BTreeMap<&'static str, usize>,
    pub(crate) passes: usize,
    /// Passes saved, as fractions of their blocks that a hook replaced and that no audit ran: a pass whose
    /// every block was replaced counts 1.
    pub(crate) saved: f64,
    /// Step and branch of passes in which something was audited.
    pub(crate) audited: BTreeSet<(usize, Branch)>,
}

impl Summary {
    /// The summary of a run, dense or cached.
    pub(crate) fn of_generation(generation: &Generation, model: &ModelMeta) -> Self {
        let run = generation.trajectory();
        match generation.session() {
            Some(session) => Self::of(session.log(), session.registry(), model, run),
            None => Self::of(&DecisionLog::default(), &HookRegistry::default(), model, run),
        }
    }

    /// The summary of a run's decisions. Decisions forced by an outer hook do not count.
    pub(crate) fn of(
        log: &DecisionLog,
        registry: &HookRegistry,
        model: &ModelMeta,
        run: &Trajectory,
    ) -> Self {
        let mut out = Self { passes: run.passes(), ..Self::default() };
        for step in run.steps() {
            for branch in run.branches_at(&step) {
                out.parts.entry((step.expert, *branch)).or_default().steps += 1;
            }
        }
        out.count_uncached(log, run);
        let whole_pass = |r: &Record| registry.forward_rings().iter().any(|ring| ring.id == r.hook);
        for record in log.records() {
            if record.why == magcache_core::Why::OuterCache {
                continue;
            }
            if record.why.is_failsafe() {
                *out.failsafes.entry(record.why.as_str()).or_default() += 1;
            }
            if record.audit.is_some() {
                out.audited.insert((record.step, record.branch));
                let part = out.parts.entry((record.expert, record.branch)).or_default();
                part.audits(record.hook).count(record, registry.audit());
            }
            if let Some(name) = record.module.as_deref() {
                let module = out.modules.entry(name.to_owned()).or_default();
                *(if record.reused { &mut module.forecast } else { &mut module.computed }) += 1;
                continue;
            }
            if record.reused && record.audit.is_none() {
                // What an audit ran was not saved.
                out.saved += if whole_pass(record) { 1.0 } else { schedule::share(&record.blocks, model) };
            }
            out.parts.entry((record.expert, record.branch)).or_default().decided(record);
        }
        out
    }

    /// Counts passes in which no hook around blocks or the forward took part: those of an expert without a
    /// cache, or with caches of modules only.
    fn count_uncached(&mut self, log: &DecisionLog, run: &Trajectory) {
        let around = log.records().iter().filter(|r| r.module.is_none());
        let seen: BTreeSet<(usize, Branch)> = around.map(|r| (r.step, r.branch)).collect();
        for step in run.steps() {
            for branch in run.branches_at(&step).iter().filter(|b| !seen.contains(&(step.place(), **b))) {
                let part = self.parts.entry((step.expert, *branch)).or_default();
                *part.uncached.entry(uncached(log, step.place(), *branch)).or_default() += 1;
            }
        }
    }

    /// Passes in which something was skipped.
    pub(crate) fn skipped(&self) -> usize {
        self.parts.values().map(|p| p.skipped.len()).sum()
    }

    /// Passes in which every block ran.
    pub(crate) fn computed(&self) -> usize {
        self.passes - self.skipped()
    }

    /// Steps of a clip of `run` that were computed; a fraction if branches or clips differ.
    pub(crate) fn computed_steps(&self, run: &Trajectory) -> f64 {
        run.steps_of_clip() as f64 * self.computed() as f64 / self.passes.max(1) as f64
    }

    /// The largest possible speed-up of the network: `N / (N − skips)`, where a skip counts by the fraction
    /// of blocks that it replaced. `None` if outputs of modules were forecast, because a module's share of
    /// its block's cost is unknown.
    pub(crate) fn ceiling(&self) -> Option<f64> {
        let passes = self.passes as f64;
        let known = self.modules.values().all(|module| module.forecast == 0);
        known.then(|| passes / (passes - self.saved).max(1e-9))
    }

    pub(crate) fn ceiling_text(&self) -> String {
        self.ceiling()
            .map_or_else(|| "ceiling not known".to_owned(), |ceiling| format!("ceiling {ceiling:.3}x"))
    }

    /// Modules computed and forecast, for `--json`.
    pub(crate) fn modules_json(&self) -> Value {
        let one = |(name, m): (&String, &Module)| json!({ "module": name, "computed": m.computed, "forecast": m.forecast });
        self.modules.iter().map(one).collect()
    }

    /// The same for a terminal, one line per module.
    pub(crate) fn modules_text(&self) -> String {
        let one = |(name, m): (&String, &Module)| {
            let Module { computed, forecast } = m;
            format!("  {name} in every block: {computed} computed, {forecast} forecast\n")
        };
        self.modules.iter().map(one).collect()
    }

    pub(crate) fn skipped_by_branch(&self) -> Value {
        let mut by: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for ((_, branch), part) in &self.parts {
            by.entry(branch.to_string()).or_default().extend(&part.skipped);
        }
        for steps in by.values_mut() {
            steps.sort_unstable();
        }
        json!(by)
    }

    fn totals(&self) -> BTreeMap<Expert, (usize, usize)> {
        let mut totals: BTreeMap<Expert, (usize, usize)> = BTreeMap::new();
        for ((expert, _), part) in &self.parts {
            let (passes, skipped) = totals.entry(*expert).or_default();
            *passes += part.steps;
            *skipped += part.skipped.len();
        }
        totals
    }

    pub(crate) fn totals_json(&self, experts: &[&str]) -> Value {
        let one = |(expert, (passes, skipped)): (Expert, (usize, usize))| {
            json!({
                "name": experts.get(usize::from(expert.0)),
                "passes": passes,
                "computed": passes - skipped,
                "skipped": skipped,
            })
        };
        self.totals().into_iter().map(one).collect()
    }

    /// The passes of each expert and branch, for `--json`; `names` are the strategies in the order of their
    /// hooks.
    pub(crate) fn json(&self, experts: &[&str], names: &[String]) -> Value {
        let one = |((expert, branch), part): (&(Expert, Branch), &Passes)| {
            let mut value = part.json(names);
            value["expert"] = json!(experts.get(usize::from(expert.0)));
            value["branch"] = json!(branch.to_string());
            value
        };
        self.parts.iter().map(one).collect()
    }

    /// The same for a terminal: one line per expert and branch, then, if there are several experts, the
    /// totals of each.
    pub(crate) fn text(&self, experts: &[&str], names: &[String]) -> String {
        let mut out = String::new();
        let name = |expert: Expert| experts.get(usize::from(expert.0)).copied().unwrap_or("transformer");
        for ((expert, branch), part) in &self.parts {
            out += &format!("  {} {branch}: {}", name(*expert), part.text(names));
        }
        let totals = self.totals();
        for (expert, (passes, skipped)) in totals.iter().filter(|_| totals.len() > 1) {
            out += &format!("  {}: skipped {skipped} of {}\n", name(*expert), count(*passes, "pass"));
        }
        out
    }
}

/// Why a pass was computed that no cache of blocks or of the forward surrounds.
pub(crate) fn uncached(log: &DecisionLog, step: usize, branch: Branch) -> &'static str {
    let inside = log.records().iter().any(|r| r.step == step && r.branch == branch);
    if inside { "modules-only" } else { "no-cache" }
}

/// `3.1 MiB`.
pub(crate) fn bytes(n: usize) -> String {
    indicatif::BinaryBytes(n as u64).to_string()
}
