//! What checks and measurements gave.

use serde::Serialize;

use crate::{args::Group, compare::estimate::Spread};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    /// It needs something that is not there.
    NotRun,
}

impl Verdict {
    /// As in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotRun => "not run",
        }
    }
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) group: Group,
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// The number that was judged; not finite, null in JSON, if there was none.
    pub(crate) value: Option<f64>,
    /// What it may be.
    pub(crate) limit: Option<Limit>,
    /// What was compared, or why it was not.
    pub(crate) detail: String,
}

/// What a number may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Timing {
    pub(crate) name: String,
    /// The type that it computes in.
    pub(crate) dtype: &'static str,
    /// Its size, and the one that it stands for where that takes too long.
    pub(crate) shape: String,
    pub(crate) median_ms: f64,
    pub(crate) min_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) repeat: usize,
    /// Multiplications and additions of its matrix products, if it is made of them.
    pub(crate) gflop: Option<f64>,
    /// These for each second.
    pub(crate) gflops: Option<f64>,
    /// Of the rate of one large matrix product in this type, or of copying memory.
    pub(crate) of_limit: Option<f64>,
}

/// Everything so far.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Findings {
    pub(crate) checks: Vec<Check>,
    pub(crate) timings: Vec<Timing>,
}

impl Limit {
    /// NaN is within no limit.
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl Findings {
    /// Judges a number.
    pub(super) fn judge(
        &mut self,
        group: Group,
        name: impl Into<String>,
        value: f64,
        limit: Limit,
        detail: impl Into<String>,
    ) {
        let verdict = if limit.holds(value) { Verdict::Passed } else { Verdict::Failed };
        let (value, limit) = (Some(value), Some(limit));
        self.checks.push(Check { group, name: name.into(), verdict, value, limit, detail: detail.into() });
    }

    /// Records something that is as it should be, or not.
    pub(super) fn tell(
        &mut self,
        group: Group,
        name: impl Into<String>,
        verdict: Verdict,
        detail: impl Into<String>,
    ) {
        let (name, detail) = (name.into(), detail.into());
        self.checks.push(Check { group, name, verdict, value: None, limit: None, detail });
    }

    pub(super) fn time(&mut self, what: Timed, times: Spread, repeat: usize) {
        let Timed { name, dtype, shape, gflop, limit } = what;
        let Spread { median, min, max } = times;
        let gflops = gflop.map(|gflop| gflop / median * 1e3);
        self.timings.push(Timing {
            name,
            dtype,
            shape,
            median_ms: median,
            min_ms: min,
            max_ms: max,
            repeat,
            gflop,
            gflops,
            of_limit: gflops.zip(limit).map(|(rate, limit)| rate / limit),
        });
    }

    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// The names of the checks that failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.verdict == Verdict::Failed)
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Timed {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: String,
    pub(super) gflop: Option<f64>,
    /// The device's own rate, in GFLOP/s.
    pub(super) limit: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_none_fails() {
        let mut findings = Findings::default();
        for (value, limit) in [
            (f64::NAN, Limit::AtMost(1.0)),
            (f64::NAN, Limit::AtLeast(1.0)),
            (1.1, Limit::AtMost(1.0)),
            (0.9, Limit::AtLeast(1.0)),
        ] {
            findings.judge(Group::Golden, "a", value, limit, "");
        }
        assert_eq!(findings.count(Verdict::Failed), 4);
        findings.judge(Group::Golden, "a", f64::INFINITY, Limit::AtLeast(1.0), "");
        findings.judge(Group::Golden, "a", 1.0, Limit::AtMost(1.0), "");
        assert_eq!((findings.count(Verdict::Failed), findings.count(Verdict::Passed)), (4, 2));
    }
}
