//! Which strategies cannot be combined, and why.

use std::ops::Range;

use crate::{
    Expert, Level, ModelMeta, Problem, Strategy, StrategyInfo, Window, meta,
    strategy::{Base, Branches},
};

/// The key under which a combination holds the tables of its members.
const MEMBERS: &str = "members";

/// One `[[cache]]` table, read and built.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    /// The strategy's name.
    pub(crate) name: &'a str,
    /// Name of the table in problems.
    pub(crate) place: String,
    /// Where it acts.
    pub(crate) level: Level,
    /// The blocks it surrounds, or whose modules it surrounds; `0..1` for the whole forward.
    pub(crate) range: Range<usize>,
    /// The module, if it acts on modules.
    pub(crate) module: Option<&'a str>,
    /// The experts it acts in; empty means all.
    pub(crate) experts: Vec<Expert>,
    /// Blocks at the start that its forecast looks at.
    pub(crate) front: usize,
    /// `None` if its own values are invalid.
    pub(crate) strategy: Option<Strategy>,
}

impl Placed<'_> {
    /// Whether both act in some step together.
    fn meets(&self, other: &Self) -> bool {
        let everywhere = self.experts.is_empty() || other.experts.is_empty();
        everywhere || self.experts.iter().any(|expert| other.experts.contains(expert))
    }

    /// The blocks at the start and the end of its range that always run.
    fn window(&self) -> Window {
        let own = self.strategy.as_ref().map(Strategy::window).unwrap_or_default();
        Window { front: own.front.max(self.front), ..own }
    }

    fn uses_signals(&self) -> bool {
        self.strategy.as_ref().is_some_and(Strategy::uses_signals)
    }

    fn base(&self) -> Option<Base> {
        self.strategy.as_ref().and_then(Strategy::base)
    }

    fn follows(&self) -> bool {
        let guards = self.strategy.as_ref().and_then(Strategy::guards);
        guards.is_some_and(|guards| guards.branches == Branches::CondDecides)
    }
}

/// Errors and warnings about pairs of tables.
pub(crate) fn problems(placed: &[Placed<'_>], model: &ModelMeta) -> Vec<Problem> {
    let mut out = Vec::new();
    for (i, b) in placed.iter().enumerate() {
        out.extend(without_signal(b, placed.iter().take(i).filter(|a| a.meets(b))));
        for a in placed.iter().take(i).filter(|a| a.meets(b)) {
            out.extend(same_place(a, b, model));
            out.extend(ages(a, b).or_else(|| ages(b, a)));
            out.extend(starved(a, b, model).or_else(|| starved(b, a, model)));
        }
    }
    out
}

/// A strategy that uses signals can decide only for parts that begin at block 0, because signals describe
/// block 0. Each ring around it cuts its range into the parts before the ring, between the ring's front and
/// back blocks, and after it.
fn without_signal<'a>(b: &Placed<'_>, outer: impl Iterator<Item = &'a Placed<'a>>) -> Option<Problem> {
    if b.level != Level::Blocks || !b.uses_signals() {
        return None;
    }
    if b.range.start != 0 {
        let message =
            format!("{:?} looks at the input of block 0, but its range starts at {}", b.name, b.range.start);
        return Some(Problem::error(&b.place, message).hint("remove `at`, or start it at block 0"));
    }
    let mut parts = vec![b.range.clone()];
    for a in outer.filter(|a| a.level == Level::Blocks) {
        let (Range { start, end }, Window { front, back }) = (a.range.clone(), a.window());
        let inside = start.saturating_add(front)..end.saturating_sub(back);
        // A ring with nothing to skip runs its blocks as if it were absent.
        let inside = if inside.is_empty() { start..end } else { inside };
        let cut = |part: Range<usize>| {
            [0..start, inside.clone(), end..usize::MAX]
                .map(|by| by.start.max(part.start)..by.end.min(part.end))
        };
        parts = parts.into_iter().flat_map(cut).filter(|part| !part.is_empty()).collect();
        if let Some(part) = parts.iter().find(|part| part.start != 0) {
            let message = format!(
                "{:?} looks at the input of block 0, but {} leaves it blocks {part:?} to decide about on their own",
                b.name, a.place
            );
            let hint = format!("put {:?} first, or end its range before block {}", b.name, part.start);
            return Some(Problem::error(&b.place, message).hint(hint));
        }
    }
    None
}

/// Two caches in the same place: when the inner one skips, the outer one has nothing to learn from.
fn same_place(a: &Placed<'_>, b: &Placed<'_>, model: &ModelMeta) -> Option<Problem> {
    if (a.level, &a.range, a.module) != (b.level, &b.range, b.module) {
        return None;
    }
    let both = |what: &str| format!("{:?} and {:?} both surround {what}", a.name, b.name);
    match a.level {
        Level::Forward => {
            let reason = if a.base() == b.base() {
                "the outer one would learn nothing from what the inner one skips"
            } else {
                "the branches' stored predictions would be of different steps"
            };
            let message = format!("{}: {reason}", both("the whole forward"));
            Some(Problem::error(&b.place, message).hint("keep one of them"))
        }
        Level::Blocks if a.range == model.whole() => {
            let hint = format!("{}give one an `at` or `experts`", join());
            Some(Problem::error(&b.place, both("the whole stack of blocks")).hint(hint))
        }
        Level::Modules => {
            let what = format!("the module {:?} of every block", a.module.unwrap_or_default());
            let hint = format!("{}give each `experts` of its own", join());
            Some(Problem::error(&b.place, both(&what)).hint(hint))
        }
        Level::Blocks => None,
    }
}

/// The strategies that combine others, as the beginning of a hint.
fn join() -> String {
    let joins = |s: &&&StrategyInfo| (s.keys)().keys.iter().any(|key| key.name == MEMBERS);
    let names: Vec<String> =
        meta::strategies().iter().filter(joins).map(|s| format!("{:?}", s.name)).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("join them with strategy = {}, or ", names.join(" or "))
    }
}

/// A strategy whose conditional branch decides, combined with one that skips passes of the other branch: the
/// residual stored for that other branch is then older than the one that the decision was measured against.
fn ages(leader: &Placed<'_>, other: &Placed<'_>) -> Option<Problem> {
    if leader.base() != Some(Base::Leader) || !other.follows() || leader.level == other.level {
        return None;
    }
    let message = format!(
        "`branches` is \"cond-decides\", but {:?} leaves out passes of the unconditional branch: what that branch \
         has stored would be older than what the conditional one measures",
        leader.name
    );
    Some(Problem::error(&other.place, message).hint("branches = \"own\""))
}

/// A cache of whole forwards around a cache of the whole stack, or of modules, learns only where the inner
/// one computes.
fn starved(outer: &Placed<'_>, inner: &Placed<'_>, model: &ModelMeta) -> Option<Problem> {
    let all = inner.level != Level::Forward && inner.range == model.whole();
    let both = outer.level == Level::Forward && all;
    if !both || outer.base() != Some(Base::Input) {
        return None;
    }
    let message = format!("{:?} learns only from the steps at which {:?} computes", outer.name, inner.name);
    Some(Problem::warning(&outer.place, message).hint("one of the two usually skips as much"))
}
