//! The passes of one expert and branch, and the decisions of each hook about them.

use std::collections::BTreeMap;

use magcache_core::{error::count, log::Record, state::HookId};
use serde_json::{Value, json};

use super::audit::Audits;

/// The decisions about one expert's passes of one branch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passes {
    pub(crate) steps: usize,
    /// Steps at which a hook skipped something.
    pub(crate) skipped: Vec<usize>,
    /// Why passes were computed in which no hook took part.
    pub(crate) uncached: BTreeMap<&'static str, usize>,
    hooks: BTreeMap<HookId, Decided>,
}

/// The decisions of one hook, with its own reasons and metric.
#[derive(Clone, Debug, Default)]
struct Decided {
    reused: usize,
    /// Why it computed, with counts.
    reasons: BTreeMap<&'static str, usize>,
    metrics: Vec<f64>,
    /// Reuses that were also computed.
    audits: Audits,
}

impl Passes {
    /// Counts a decision about blocks or the forward.
    pub(super) fn decided(&mut self, record: &Record) {
        let own = self.hooks.entry(record.hook).or_default();
        if record.reused {
            own.reused += 1;
            if !self.skipped.contains(&record.step) {
                self.skipped.push(record.step);
            }
        } else {
            *own.reasons.entry(record.why.as_str()).or_default() += 1;
        }
        own.metrics.extend(record.metric.filter(|metric| metric.is_finite()));
    }

    pub(super) fn audits(&mut self, hook: HookId) -> &mut Audits {
        &mut self.hooks.entry(hook).or_default().audits
    }

    /// One line; if there are several hooks, followed by a line for each. `names` are the strategies in the
    /// order of their hooks.
    pub(super) fn text(&self, names: &[String]) -> String {
        let (steps, skipped) = (self.steps, self.skipped.len());
        let computed = steps - skipped;
        let several = self.hooks.len() > 1;
        let mut reasons = self.uncached.clone();
        let mut metric = String::new();
        if let Some(only) = self.hooks.values().next().filter(|_| !several) {
            reasons.extend(&only.reasons);
            metric = only.metric();
        }
        let mut out = format!(
            "{}, {computed} computed{}, {skipped} skipped{metric}\n",
            count(steps, "step"),
            counted(&reasons)
        );
        for (hook, own) in &self.hooks {
            if several {
                let (computed, reasons) = (own.reasons.values().sum::<usize>(), counted(&own.reasons));
                let (name, metric) = (name(*hook, names), own.metric());
                out += &format!(
                    "    {name}: computed {computed} times{reasons}, skipped {}{metric}\n",
                    own.reused
                );
            }
            out += &own.audits.text();
        }
        out
    }

    /// The passes for `--json`; with several hooks, reasons and metric are listed only per hook.
    pub(super) fn json(&self, names: &[String]) -> Value {
        let of = |own: &Decided| {
            json!({
                "computed_because": own.reasons,
                "mean_metric": own.mean(),
                "max_metric": own.max(),
                "audit": own.audits.json(),
            })
        };
        let one = |(hook, own): (&HookId, &Decided)| {
            let mut value = of(own);
            value["strategy"] = json!(name(*hook, names));
            value["skipped"] = json!(own.reused);
            value
        };
        let mut value = match self.hooks.len() {
            0 => of(&Decided::default()),
            1 => self.hooks.values().map(of).collect::<Vec<_>>().remove(0),
            _ => json!({ "computed_because": null, "mean_metric": null, "max_metric": null, "audit": null }),
        };
        if let (false, Some(reasons)) = (self.uncached.is_empty(), value["computed_because"].as_object_mut())
        {
            reasons.extend(self.uncached.iter().map(|(why, n)| ((*why).to_owned(), json!(n))));
        }
        value["steps"] = json!(self.steps);
        value["computed"] = json!(self.steps - self.skipped.len());
        value["skipped"] = json!(self.skipped.len());
        value["hooks"] = self.hooks.iter().map(one).collect();
        value
    }
}

impl Decided {
    fn mean(&self) -> Option<f64> {
        (!self.metrics.is_empty()).then(|| self.metrics.iter().sum::<f64>() / self.metrics.len() as f64)
    }

    fn max(&self) -> Option<f64> {
        self.metrics.iter().copied().reduce(f64::max)
    }

    fn metric(&self) -> String {
        match (self.mean(), self.max()) {
            (Some(mean), Some(max)) => format!(", metric mean {mean:.4} max {max:.4}"),
            _ => String::new(),
        }
    }
}

/// The name of a hook in the configuration.
fn name(hook: HookId, names: &[String]) -> String {
    names.get(usize::from(hook.0)).cloned().unwrap_or_else(|| format!("hook {}", hook.0))
}

/// ` (8 warmup, 2 over)`; empty without a reason.
fn counted(reasons: &BTreeMap<&'static str, usize>) -> String {
    let all: Vec<String> = reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", all.join(", ")) }
}
