//! Where two traces decided differently.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::Result;
use magcache_core::error::count;
use serde::Serialize;
use serde_json::{Value, json};

use super::{super::schedule::Around, Line, REUSE};

/// Identifies one pass of one hook in both traces, or one pass of the network if their hooks surround
/// different blocks. Strategies are not part of it: a replay repeats with a schedule what another strategy
/// decided. If several hooks surround the same blocks, they are matched in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Pass {
    request: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clip: Option<usize>,
    step: usize,
    branch: String,
    evaluation: u8,
    #[serde(flatten)]
    place: Place,
    #[serde(skip)]
    nth: usize,
}

/// What a hook surrounds; nothing for a pass of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Place {
    #[serde(skip)]
    around: Option<Around>,
    range: Option<[usize; 2]>,
    module: Option<String>,
}

/// Different values for the same pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Pair {
    pass: Pass,
    a: String,
    b: String,
}

/// The largest difference of a number, and its pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Largest {
    pass: Pass,
    difference: f64,
    a: f64,
    b: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Diff {
    lines: [usize; 2],
    /// True if their hooks surround different blocks, modules or the forward, so that passes of the network
    /// are compared.
    #[serde(skip)]
    elsewhere: bool,
    decisions: Vec<Pair>,
    /// Passes that only one trace has.
    only_in_a: Vec<Pass>,
    only_in_b: Vec<Pass>,
    reasons: Vec<Pair>,
    strategies: Vec<Pair>,
    metric: Option<Largest>,
    accumulated: Option<Largest>,
    /// Different steps, timesteps, sigmas or experts.
    settings: Vec<Pair>,
}

impl Place {
    fn of(line: &Line) -> Self {
        Self { around: line.around, range: Some(line.range), module: line.module.clone() }
    }
}

/// The lines of every hook, keyed by pass.
fn by_hook(lines: &[Line]) -> BTreeMap<Pass, &Line> {
    let mut out = BTreeMap::new();
    for line in lines {
        let mut pass = Pass::of(line, Place::of(line));
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
        let kept = out.entry(Pass::of(line, Place::default())).or_insert(line);
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
            only_in_a: only(&passes_a, &passes_b),
            only_in_b: only(&passes_b, &passes_a),
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
        self.decisions.is_empty() && self.only_in_a.is_empty() && self.only_in_b.is_empty()
    }

    pub(crate) fn json(&self) -> Result<Value> {
        let mut document = serde_json::to_value(self)?;
        document["same_decisions"] = json!(self.same());
        document["compared_by"] = json!(if self.elsewhere { "step" } else { "hook" });
        Ok(document)
    }
}

/// Keeps the larger difference; a number that only one trace has does not count.
fn larger(of: &mut Option<Largest>, pass: &Pass, a: Option<f64>, b: Option<f64>) {
    let Some((a, b)) = a.zip(b) else { return };
    let difference = (a - b).abs();
    if difference > of.as_ref().map_or(0.0, |largest| largest.difference) {
        *of = Some(Largest { pass: pass.clone(), difference, a, b });
    }
}

impl Pass {
    fn of(line: &Line, place: Place) -> Self {
        let Line { request, clip, step, branch, evaluation, .. } = line;
        let (request, branch) = (request.clone(), branch.clone());
        Self { request, clip: *clip, step: *step, branch, evaluation: *evaluation, place, nth: 0 }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, clip, step, branch, evaluation, place, .. } = self;
        write!(f, "{request}")?;
        if let Some(clip) = clip {
            write!(f, " clip {clip}")?;
        }
        write!(f, " step {step} {branch}")?;
        if *evaluation > 0 {
            write!(f, " evaluation {evaluation}")?;
        }
        let Place { around, range: Some([first, end]), module } = place else { return Ok(()) };
        match around {
            Some(Around::Forward) => f.write_str(" forward"),
            _ => write!(f, " blocks {first}..{end}"),
        }?;
        module.as_ref().map_or(Ok(()), |module| write!(f, " {module}"))
    }
}

/// Lines of one kind are listed up to this number; the rest are counted.
const LISTED: usize = 10;

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.lines;
        writeln!(f, "{a} lines in a, {b} in b")?;
        if self.elsewhere {
            writeln!(f, "their caches surround other blocks: compared by step and branch")?;
        }
        let pairs = |f: &mut fmt::Formatter<'_>, what: &str, pairs: &[Pair]| {
            listed(f, what, pairs.iter().map(|p| format!("{}: {} in a, {} in b", p.pass, p.a, p.b)))
        };
        pairs(f, "decided differently", &self.decisions)?;
        for (what, passes) in [("only in b", &self.only_in_b), ("only in a", &self.only_in_a)] {
            listed(f, what, passes.iter().map(ToString::to_string))?;
        }
        pairs(f, "under other settings", &self.settings)?;
        pairs(f, "for another reason", &self.reasons)?;
        pairs(f, "by another strategy", &self.strategies)?;
        for (what, largest) in [("metric", &self.metric), ("accumulated value", &self.accumulated)] {
            if let Some(Largest { pass, difference, a, b }) = largest {
                writeln!(f, "the {what} differs by at most {difference:.3e}: {pass}: {a} in a, {b} in b")?;
            }
        }
        if self.same() { f.write_str("the decisions are the same\n") } else { Ok(()) }
    }
}

fn listed(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    lines: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    let all = lines.len();
    if all == 0 {
        return Ok(());
    }
    writeln!(f, "{} {what}", count(all, "pass"))?;
    for line in lines.take(LISTED) {
        writeln!(f, "  {line}")?;
    }
    if all > LISTED { writeln!(f, "  and {} more (all with --json)", all - LISTED) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
