//! The results of audits: the true errors of reuse.

use std::collections::BTreeMap;

use magcache_core::log::{Audit, AuditPolicy, OnDrift, Record};
use serde_json::{Value, json};

/// The audited reuses of one expert's passes of one branch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audits {
    policy: AuditPolicy,
    found: Vec<Audit>,
    /// Sum of the errors of each slot.
    sums: BTreeMap<(u16, usize, usize, u8, Option<String>), f64>,
}

/// Selects one of an audit's errors.
type Error = fn(&Audit) -> f64;

impl Audits {
    /// Counts a decision, if it was audited.
    pub(crate) fn count(&mut self, record: &Record, policy: &AuditPolicy) {
        let Some(audit) = record.audit else { return };
        self.policy = *policy;
        let module = record.module.as_deref().map(str::to_owned);
        let slot = (record.hook.0, record.blocks.start, record.blocks.end, record.eval, module);
        *self.sums.entry(slot).or_default() += audit.output_l1;
        self.found.push(audit);
    }

    pub(crate) fn len(&self) -> usize {
        self.found.len()
    }

    fn mean(&self, error: Error) -> f64 {
        self.found.iter().map(error).sum::<f64>() / self.found.len() as f64
    }

    fn max(&self, error: Error) -> f64 {
        self.found.iter().map(error).fold(0.0, f64::max)
    }

    /// The summed error of the slot that drifted most, extrapolated from the audited reuses to all.
    fn drift(&self) -> f64 {
        self.sums.values().copied().fold(0.0, f64::max) / self.policy.fraction
    }

    /// One line for a terminal; empty without an audit.
    pub(crate) fn text(&self) -> String {
        if self.found.is_empty() {
            return String::new();
        }
        let budget = match (self.policy.drift_budget, self.policy.on_drift) {
            (None, _) => String::new(),
            (Some(budget), OnDrift::Report) if self.drift() > budget => {
                format!(", over the budget of {budget}")
            }
            (Some(budget), _) => format!(", budget {budget}"),
        };
        format!(
            "    {} audited: true error mean {:.4} max {:.4}, of the residual mean {:.4} max {:.4}, drift {:.3}{budget}\n",
            if self.len() == 1 { "1 reuse".to_owned() } else { format!("{} reuses", self.len()) },
            self.mean(|a| a.output_l1),
            self.max(|a| a.output_l1),
            self.mean(|a| a.residual_l1),
            self.max(|a| a.residual_l1),
            self.drift(),
        )
    }

    /// The audits for `--json`; null if there are none.
    pub(crate) fn json(&self) -> Value {
        if self.found.is_empty() {
            return Value::Null;
        }
        let both = |error: Error| json!({ "mean": self.mean(error), "max": self.max(error) });
        json!({
            "audited": self.len(),
            "output_l1": both(|a| a.output_l1),
            "output_l2": both(|a| a.output_l2),
            "residual_l1": both(|a| a.residual_l1),
            "residual_l2": both(|a| a.residual_l2),
            "drift": self.drift(),
        })
    }
}
