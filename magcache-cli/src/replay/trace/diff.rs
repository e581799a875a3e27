//! Where two traces decided differently.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use magcache_core::error::count;
use serde_json::{Value, json};

use super::{super::schedule::Around, Line, REUSE};

/// Identifies one pass of one hook in both traces, or one pass of the network if their hooks surround
/// different blocks. Strategies are not part of it: a replay repeats with a schedule what another strategy
/// decided. If several hooks surround the same blocks, they are matched in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pass {
    request: String,
    step: usize,
    branch: String,
    evaluation: u8,
    place: Option<Place>,
    nth: usize,
}

/// What a hook surrounds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    around: Option<Around>,
    range: [usize; 2],
    module: Option<String>,
}

/// Different values for the same pass.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    pass: Pass,
    a: String,
    b: String,
}

/// The largest difference of a number, and its pass.
#[derive(Clone, Debug, PartialEq)]
struct Largest {
    pass: Pass,
    by: f64,
    a: f64,
    b: f64,
}

/// A comparison of two traces.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Diff {
    lines: [usize; 2],
    /// True if their hooks surround different blocks, modules or the forward, so that passes of the network
    /// are compared.
    elsewhere: bool,
    decisions: Vec<Pair>,
    /// Passes that only one trace has.
    missing: [Vec<Pass>; 2],
    reasons: Vec<Pair>,
    strategies: Vec<Pair>,
    metric: Option<Largest>,
    accumulated: Option<Largest>,
    /// Different steps, timesteps, sigmas or experts.
    settings: Vec<Pair>,
}

impl Place {
    fn of(line: &Line) -> Self {
        Self { around: line.around, range: line.range, module: line.module.clone() }
    }
}

/// The lines of every hook, keyed by pass.
fn by_hook(lines: &[Line]) -> BTreeMap<Pass, &Line> {
    let mut out = BTreeMap::new();
    for line in lines {
        let mut pass = Pass::of(line, Some(Place::of(line)));
        while out.contains_key(&pass) {
            pass.nth += 1;
        }
        out.insert(pass, line);
    }
    out
}

/// One line for every pass of the network: that of the outermost hook that skipped something, or else of the
/// outermost hook.
fn by_step(lines: &[Line]) -> BTreeMap<Pass, &Line> {
    let mut out: BTreeMap<Pass, &Line> = BTreeMap::new();
    for line in lines {
        let kept = out.entry(Pass::of(line, None)).or_insert(line);
        if kept.decision != REUSE && line.decision == REUSE {
            *kept = line;
        }
    }
    out
}

/// The settings of a pass, which must be equal for two traces to be comparable.
fn setting(line: &Line) -> String {
    let Line { of, timestep, sigma, expert, .. } = line;
    format!("step of {of}, timestep {timestep}, sigma {sigma}, expert {expert}")
}

impl Diff {
    pub(crate) fn of(a: &[Line], b: &[Line]) -> Self {
        let places = |lines: &[Line]| lines.iter().map(Place::of).collect::<BTreeSet<_>>();
        // An empty trace has no places to compare.
        let elsewhere = !a.is_empty() && !b.is_empty() && places(a) != places(b);
        let passes = if elsewhere { by_step } else { by_hook };
        let (passes_a, passes_b) = (passes(a), passes(b));
        let only = |these: &BTreeMap<Pass, &Line>, those: &BTreeMap<Pass, &Line>| -> Vec<Pass> {
            these.keys().filter(|pass| !those.contains_key(*pass)).cloned().collect()
        };
        let mut out = Self {
            lines: [a.len(), b.len()],
            elsewhere,
            missing: [only(&passes_b, &passes_a), only(&passes_a, &passes_b)],
            ..Self::default()
        };
        for (pass, a) in &passes_a {
            let Some(b) = passes_b.get(pass) else { continue };
            let pair = |a: &str, b: &str| {
                (a != b).then(|| Pair { pass: pass.clone(), a: a.to_owned(), b: b.to_owned() })
            };
            let name = |line: &Line| line.strategy.clone().unwrap_or_default();
            out.decisions.extend(pair(&a.decision, &b.decision));
            out.reasons.extend(pair(&a.reason, &b.reason));
            out.strategies.extend(pair(&name(a), &name(b)));
            out.settings.extend(pair(&setting(a), &setting(b)));
            larger(&mut out.metric, pass, a.metric, b.metric);
            larger(&mut out.accumulated, pass, a.accumulated, b.accumulated);
        }
        out
    }

    /// True if every pass is in both traces and was decided alike.
    pub(crate) fn same(&self) -> bool {
        self.decisions.is_empty() && self.missing.iter().all(Vec::is_empty)
    }

    pub(crate) fn json(&self) -> Value {
        let pairs = |pairs: &[Pair]| -> Vec<Value> {
            let one = |p: &Pair| json!({ "pass": p.pass.json(), "a": p.a, "b": p.b });
            pairs.iter().map(one).collect()
        };
        let largest = |largest: &Option<Largest>| {
            let one = |l: &Largest| json!({ "pass": l.pass.json(), "difference": l.by, "a": l.a, "b": l.b });
            largest.as_ref().map(one)
        };
        let [only_b, only_a] =
            self.missing.each_ref().map(|all| all.iter().map(Pass::json).collect::<Vec<_>>());
        json!({
            "same_decisions": self.same(),
            "lines": self.lines,
            "compared_by": if self.elsewhere { "step" } else { "hook" },
            "decisions": pairs(&self.decisions),
            "only_in_a": only_a,
            "only_in_b": only_b,
            "reasons": pairs(&self.reasons),
            "strategies": pairs(&self.strategies),
            "settings": pairs(&self.settings),
            "metric": largest(&self.metric),
            "accumulated": largest(&self.accumulated),
        })
    }
}

/// Keeps the larger difference; a number that only one trace has does not count.
fn larger(of: &mut Option<Largest>, pass: &Pass, a: Option<f64>, b: Option<f64>) {
    let Some((a, b)) = a.zip(b) else { return };
    let by = (a - b).abs();
    if by > of.as_ref().map_or(0.0, |largest| largest.by) {
        *of = Some(Largest { pass: pass.clone(), by, a, b });
    }
}

impl Pass {
    fn of(line: &Line, place: Option<Place>) -> Self {
        let Line { request, step, branch, evaluation, .. } = line;
        let (request, branch) = (request.clone(), branch.clone());
        Self { request, step: *step, branch, evaluation: *evaluation, place, nth: 0 }
    }

    fn json(&self) -> Value {
        let Self { request, step, branch, evaluation, place, .. } = self;
        json!({
            "request": request, "step": step, "branch": branch, "evaluation": evaluation,
            "range": place.as_ref().map(|place| place.range),
            "module": place.as_ref().and_then(|place| place.module.as_ref()),
        })
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, step, branch, evaluation, place, .. } = self;
        write!(f, "{request} step {step} {branch}")?;
        if *evaluation > 0 {
            write!(f, " evaluation {evaluation}")?;
        }
        let Some(Place { around, range: [first, end], module }) = place else { return Ok(()) };
        match around {
            Some(Around::Forward) => f.write_str(" forward"),
            _ => write!(f, " blocks {first}..{end}"),
        }?;
        module.as_ref().map_or(Ok(()), |module| write!(f, " {module}"))
    }
}

/// Lines of one kind are listed up to this number; the rest are counted.
const TOLD: usize = 10;

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.lines;
        writeln!(f, "{a} lines in a, {b} in b")?;
        if self.elsewhere {
            writeln!(f, "their caches surround other blocks: compared by step and branch")?;
        }
        let pairs = |f: &mut fmt::Formatter<'_>, what: &str, pairs: &[Pair]| {
            told(f, what, pairs.iter().map(|p| format!("{}: {} in a, {} in b", p.pass, p.a, p.b)))
        };
        pairs(f, "decided differently", &self.decisions)?;
        for (what, passes) in ["only in b", "only in a"].iter().zip(&self.missing) {
            told(f, what, passes.iter().map(ToString::to_string))?;
        }
        pairs(f, "under other settings", &self.settings)?;
        pairs(f, "for another reason", &self.reasons)?;
        pairs(f, "by another strategy", &self.strategies)?;
        for (what, largest) in [("metric", &self.metric), ("accumulated value", &self.accumulated)] {
            if let Some(Largest { pass, by, a, b }) = largest {
                writeln!(f, "the {what} differs by at most {by:.3e}: {pass}: {a} in a, {b} in b")?;
            }
        }
        if self.same() { f.write_str("the decisions are the same\n") } else { Ok(()) }
    }
}

fn told(f: &mut fmt::Formatter<'_>, what: &str, lines: impl ExactSizeIterator<Item = String>) -> fmt::Result {
    let all = lines.len();
    if all == 0 {
        return Ok(());
    }
    writeln!(f, "{} {what}", count(all, "pass"))?;
    for line in lines.take(TOLD) {
        writeln!(f, "  {line}")?;
    }
    if all > TOLD { writeln!(f, "  and {} more (all with --json)", all - TOLD) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
