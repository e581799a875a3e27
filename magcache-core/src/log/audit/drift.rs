//! The errors of audited reuses, and what they forbid.

use candle_core::Result;

use super::{Audit, AuditPolicy, OnDrift};
use crate::{
    Streams, Why,
    group::Together,
    log::Record,
    metrics::{self, Sums},
};

impl AuditPolicy {
    /// Whether the reuse with this number in its slot, from 0, is audited.
    pub(crate) fn is_due(&self, turn: usize) -> bool {
        let before = |turn: usize| (turn as f64 * self.fraction + 0.5).floor();
        before(turn + 1) > before(turn)
    }
}

impl Audit {
    /// The error of `guess` against `truth`, both made from `base`, over all ranks.
    pub(crate) fn of(
        base: &Streams,
        guess: &Streams,
        truth: &Streams,
        together: Together<'_>,
    ) -> Result<Self> {
        let (base, guess, truth) = (base.image()?, guess.image()?, truth.image()?);
        let (guessed, added) = (guess.sub(&base)?, truth.sub(&base)?);
        let l1 = |guess, truth| together.sums(metrics::l1_sums(guess, truth)?);
        let l2 = |guess, truth| together.sums(metrics::l2_sums(guess, truth)?);
        Ok(Self {
            output_l1: error(&l1(&guess, &truth)?, |ratio| ratio),
            output_l2: error(&l2(&guess, &truth)?, f64::sqrt),
            residual_l1: error(&l1(&guessed, &added)?, |ratio| ratio),
            residual_l2: error(&l2(&guessed, &added)?, f64::sqrt),
        })
    }
}

/// The worst row's error: 0 if nothing differs, infinite if it is no number.
fn error(rows: &[Sums], root: impl Fn(f64) -> f64) -> f64 {
    match metrics::worst(rows.iter().map(|row| root(row.ratio()))) {
        error if error.is_finite() => error,
        _ if rows.iter().all(Sums::is_zero) => 0.0,
        _ => f64::INFINITY,
    }
}

/// The accumulated audits of one slot. Derived from the log alone, so that an error or an eviction, which
/// drops the slot, does not reset it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Drift {
    /// The accumulated error since the budget was last exceeded.
    since: f64,
    /// Consecutive skips that are still allowed, once it was exceeded.
    cap: Option<usize>,
    /// Whether the last audit exceeded it.
    pub(crate) passed: bool,
}

impl Drift {
    /// From the decisions of one slot, in order; `max_skips` is the cap of its table.
    pub(crate) fn of<'r>(
        records: impl Iterator<Item = &'r Record>,
        policy: &AuditPolicy,
        max_skips: Option<usize>,
    ) -> Self {
        let mut drift = Self::default();
        let Some(budget) = policy.drift_budget.filter(|_| policy.acts()) else { return drift };
        let (mut run, mut longest) = (0, 0);
        for record in records.filter(|r| !matches!(r.why, Why::OuterCache | Why::Forced)) {
            let skips = record.reused || record.audit.is_some();
            run = if skips { run + 1 } else { 0 };
            longest = longest.max(run);
            if let Some(audit) = record.audit {
                drift.since += audit.output_l1 / policy.fraction;
                drift.passed = drift.since > budget;
                if drift.passed {
                    drift.since = 0.0;
                    drift.cap = Some(match policy.on_drift {
                        OnDrift::Tighten => drift.cap.or(max_skips).unwrap_or(longest) / 2,
                        _ => 0,
                    });
                }
            }
            if !record.reused {
                run = 0;
            }
        }
        drift
    }

    /// Whether a reuse after `consecutive` skips in a row is no longer allowed.
    pub(crate) fn forbids(&self, consecutive: usize) -> bool {
        self.cap.is_some_and(|cap| consecutive >= cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Branch, Expert, state::HookId};

    fn due(fraction: f64, turns: usize) -> Vec<usize> {
        let policy = AuditPolicy { fraction, ..AuditPolicy::default() };
        (0..turns).filter(|turn| policy.is_due(*turn)).collect()
    }

    #[test]
    fn a_fraction_of_the_reuses_is_due_evenly_spread() {
        assert_eq!(due(0.1, 40), [4, 14, 24, 34]);
        assert_eq!(due(0.5, 6), [0, 2, 4]);
        assert_eq!(due(1.0, 4), [0, 1, 2, 3]);
        assert_eq!(due(0.0, 100), [0; 0]);
        assert_eq!(due(0.3, 1000).len(), 300);
    }

    /// `c` is a computed pass, `s` a skipped one, a digit an audited skip with that error in tenths.
    fn log(passes: &str) -> Vec<Record> {
        let record = |(step, what): (usize, char)| {
            let error = what.to_digit(10).map(|tenths| f64::from(tenths) / 10.0);
            let audit = error.map(|e| Audit { output_l1: e, output_l2: e, residual_l1: e, residual_l2: e });
            Record {
                step,
                eval: 0,
                expert: Expert(0),
                branch: Branch::Cond,
                hook: HookId(0),
                blocks: 0..4,
                module: None,
                reused: what != 'c',
                why: if what == 'c' { Why::Over } else { Why::Under },
                metric: None,
                accumulated: None,
                audit,
                bytes: 0,
            }
        };
        passes.chars().enumerate().map(record).collect()
    }

    #[test]
    fn a_budget_is_passed_at_the_audit_that_passes_it() {
        let policy = |on_drift| AuditPolicy { fraction: 0.5, drift_budget: Some(1.0), on_drift };
        let drift = |on_drift, max, passes| Drift::of(log(passes).iter(), &policy(on_drift), max);
        // Each audit counts twice: 0.4 and 0.6 are within the budget, and 1.0 does not exceed it.
        for within in ["cs2c", "cs2c1", "cs2c3", "cs2c3ssss"] {
            assert_eq!(drift(OnDrift::Disable, None, within).cap, None, "{within}");
        }
        let over = drift(OnDrift::Disable, None, "cs2c4");
        assert!(over.passed && over.forbids(0));
        assert!(drift(OnDrift::Disable, None, "cs2c4ccc").forbids(0), "for good");
        assert_eq!(drift(OnDrift::Report, None, "cs9c9").cap, None);
        // Half the table's cap, or half the longest run of skips.
        assert_eq!(drift(OnDrift::Tighten, Some(5), "cs6").cap, Some(2));
        assert_eq!(drift(OnDrift::Tighten, None, "csssssc6").cap, Some(2));
        assert_eq!(drift(OnDrift::Tighten, None, "csss6").cap, Some(2));
        // The sum restarts: the second 0.8 is within the budget, and the third makes it 1.6.
        assert_eq!(drift(OnDrift::Tighten, Some(5), "cs6c4").cap, Some(2));
        assert_eq!(drift(OnDrift::Tighten, Some(5), "cs6c4c4").cap, Some(1));
        assert_eq!(drift(OnDrift::Tighten, Some(5), "cs6c4c4c6").cap, Some(0));
    }
}
