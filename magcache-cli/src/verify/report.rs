//! The results, for people and for programs.

use std::{collections::BTreeMap, fmt};

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_core::error::count;
use serde::Serialize;

/// How many of the parts left out for the same reason are named to people; programs get all.
const SHOWN: usize = 5;

/// Every case that was run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifyReport {
    /// True if every case is ok, not counting skipped ones if those are allowed.
    pub ok: bool,
    /// In the order of the arguments.
    pub cases: Vec<CaseReport>,
}

/// One reference case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseReport {
    /// Group and name, `transformers/wan21_t2v`.
    pub case: String,
    /// True if something was compared and all of it is within its tolerance.
    pub ok: bool,
    /// Every comparison.
    pub calls: Vec<CallReport>,
    /// Why none of the case could be run.
    pub skipped: Option<String>,
    /// Parts of the reference that this build cannot show or run; they do not count against the case.
    pub not_compared: Vec<NotCompared>,
    /// Findings about the recording.
    pub notes: Vec<String>,
    /// The part of a tensor's largest value that an error may be, where that is more than its tolerance.
    #[serde(skip)]
    slack: f64,
}

/// One output of one call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallReport {
    /// The call, or the run of an end-to-end case.
    pub name: String,
    /// What was compared.
    pub output: String,
    /// Largest error, or the number of decisions that differ. Not finite (null in JSON) if values or shapes
    /// make a comparison impossible.
    pub max_abs: f64,
    /// The same relative to the largest magnitude of the reference, or to the number of decisions.
    pub max_rel: f64,
    /// The maximum for `max_abs`.
    pub tolerance: f64,
    /// Whether `max_abs` is within it.
    pub ok: bool,
    /// Both sides of a difference, if they are short.
    pub detail: Option<String>,
}

/// A part of a case that was left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NotCompared {
    /// A tensor of the reference, or a run.
    pub what: String,
    /// Why.
    pub why: String,
}

impl VerifyReport {
    /// One line: the number of cases, and their results.
    pub fn verdict(&self) -> String {
        let skipped = self.cases.iter().filter(|c| c.skipped.is_some()).count();
        let good = self.cases.iter().filter(|c| c.ok).count();
        let failed = self.cases.len() - good - skipped;
        format!("{}: {good} ok, {failed} failed, {skipped} skipped", count(self.cases.len(), "case"))
    }
}

impl CaseReport {
    pub(super) fn new(case: impl Into<String>) -> Self {
        Self {
            case: case.into(),
            ok: false,
            calls: Vec::new(),
            skipped: None,
            not_compared: Vec::new(),
            notes: Vec::new(),
            slack: 0.0,
        }
    }

    pub(super) fn with_slack(self, slack: f64) -> Self {
        Self { slack, ..self }
    }

    /// Records that the case cannot be run at all.
    pub(super) fn skip(&mut self, why: impl Into<String>) {
        self.skipped = Some(why.into());
    }

    /// Records a part that is not compared.
    pub(super) fn leave_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.not_compared.push(NotCompared { what: what.into(), why: why.into() });
    }

    /// Records a finding about the recording, once.
    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Compares two tensors of any rank.
    pub(super) fn tensors(
        &mut self,
        name: &str,
        output: &str,
        got: &Tensor,
        want: &Tensor,
        tolerance: f64,
    ) -> Result<()> {
        if got.dims() == want.dims() {
            let want = values(want)?;
            let tolerance = tolerance.max(self.slack * largest(want.iter().copied()));
            self.numbers(name, output, &values(got)?, &want, tolerance);
        } else {
            let detail = format!("the shape is {:?}, expected {:?}", got.dims(), want.dims());
            self.push(name, output, [f64::INFINITY; 2], tolerance, Some(detail));
        }
        Ok(())
    }

    /// Compares two lists.
    pub(super) fn numbers(&mut self, name: &str, output: &str, got: &[f64], want: &[f64], tolerance: f64) {
        if got.len() != want.len() {
            let detail = format!("got {}, expected {}", count(got.len(), "value"), want.len());
            self.push(name, output, [f64::INFINITY; 2], tolerance, Some(detail));
            return;
        }
        let max_abs = largest(got.iter().zip(want).map(|(got, want)| got - want));
        let scale = largest(want.iter().copied());
        let max_rel = if max_abs == 0.0 { 0.0 } else { max_abs / scale };
        self.push(name, output, [max_abs, max_rel], tolerance, None);
    }

    /// Compares two rows of decisions, which must be equal.
    pub(super) fn decisions(&mut self, name: &str, output: &str, got: &[bool], want: &[bool]) {
        let differ =
            got.iter().zip(want).filter(|(got, want)| got != want).count() + got.len().abs_diff(want.len());
        let digits = |row: &[bool]| row.iter().map(|skip| if *skip { '1' } else { '0' }).collect::<String>();
        let detail = (differ > 0).then(|| format!("got {}, expected {}", digits(got), digits(want)));
        self.count(name, output, differ, want.len(), detail);
    }

    /// Compares two values, which must be equal.
    pub(super) fn equal<T: PartialEq + fmt::Debug>(&mut self, name: &str, output: &str, got: &T, want: &T) {
        let detail = (got != want).then(|| format!("got {got:?}, expected {want:?}"));
        self.count(name, output, usize::from(got != want), 1, detail);
    }

    /// Records how many of `of` things differ; none may.
    pub(super) fn count(
        &mut self,
        name: &str,
        output: &str,
        differ: usize,
        of: usize,
        detail: Option<String>,
    ) {
        let errors = [differ as f64, differ as f64 / of.max(1) as f64];
        self.push(name, output, errors, 0.0, detail);
    }

    fn push(&mut self, name: &str, output: &str, errors: [f64; 2], tolerance: f64, detail: Option<String>) {
        let [max_abs, max_rel] = errors;
        // NaN is never within a tolerance.
        let ok = max_abs <= tolerance;
        let (name, output) = (name.to_owned(), output.to_owned());
        self.calls.push(CallReport { name, output, max_abs, max_rel, tolerance, ok, detail });
    }

    /// Sets the verdict. A case whose every part was left out is skipped.
    pub(super) fn finish(mut self) -> Result<Self> {
        if self.calls.is_empty() && self.skipped.is_none() {
            let first = self.not_compared.first().map(|part| part.why.clone());
            let why = first.ok_or_else(|| crate::console::bad_input("the case has nothing to compare"))?;
            self.skip(why);
        }
        self.ok = self.skipped.is_none() && self.calls.iter().all(|call| call.ok);
        Ok(self)
    }
}

/// The largest magnitude, or NaN if any value is NaN: `f64::max` would hide it.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).fold(0.0, |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.cases {
            writeln!(f, "{case}")?;
        }
        f.write_str(&self.verdict())
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.skipped {
            Some(why) => return writeln!(f, "{}: skipped, {why}", self.case),
            None => writeln!(f, "{}: {}", self.case, if self.ok { "ok" } else { "FAILED" })?,
        }
        let width = |of: fn(&CallReport) -> &str| self.calls.iter().map(|c| of(c).len()).max().unwrap_or(0);
        let (name, output) = (width(|c| &c.name).max(4), width(|c| &c.output).max(6));
        let head = ["call", "output", "max abs", "max rel", "tolerance"];
        writeln!(
            f,
            "  {:name$}  {:output$}  {:>9}  {:>9}  {:>9}",
            head[0], head[1], head[2], head[3], head[4]
        )?;
        for call in &self.calls {
            let CallReport { name: n, output: o, max_abs, max_rel, tolerance, ok, detail } = call;
            let verdict = if *ok { "ok" } else { "FAILED" };
            write!(
                f,
                "  {n:name$}  {o:output$}  {max_abs:9.2e}  {max_rel:9.2e}  {tolerance:9.2e}  {verdict}"
            )?;
            match detail {
                Some(detail) => writeln!(f, ": {detail}")?,
                None => writeln!(f)?,
            }
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        let mut left_out: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for part in &self.not_compared {
            left_out.entry(&part.why).or_default().push(&part.what);
        }
        for (why, what) in left_out {
            let (shown, rest) = what.split_at(what.len().min(SHOWN));
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            writeln!(f, "  not compared: {}{more} ({why})", shown.join(", "))?;
        }
        Ok(())
    }
}
