//! Schedules in which a step can also run some of the blocks.

use std::{cmp::Ordering, collections::BTreeSet, ops::Range};

use super::{
    Continuation, Objective, Planner, WINDOW,
    costs::{Costs, Skip},
    path,
};
use crate::Window;

/// The blocks that run at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// Every block.
    All,
    /// The first and the last ones, with the residual of those between replaced.
    Window(Window),
    /// None.
    Nothing,
}

/// A schedule of what runs at each step, and its predicted errors.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedWindows {
    /// One for each step.
    pub runs: Vec<Runs>,
    /// Time relative to that of computing every step.
    pub time: f64,
    /// The error of the result; a bound if it was not measured how errors add up.
    pub error: f64,
    /// The sum of the errors that each step alone would cause.
    pub sum: f64,
}

impl PlannedWindows {
    /// The ranges of blocks that are replaced together, with the steps at which they are, for a model of
    /// `blocks` blocks: every block is in one range at most.
    pub fn skips(&self, blocks: usize) -> Vec<(Range<usize>, Vec<usize>)> {
        let windows = self.runs.iter().filter_map(|runs| match runs {
            Runs::Window(window) => Some(*window),
            Runs::All | Runs::Nothing => None,
        });
        let of = |part: Range<usize>| {
            let replaced = |runs: &Runs| match runs {
                Runs::All => false,
                Runs::Window(window) => replaces(*window, blocks, &part),
                Runs::Nothing => true,
            };
            let steps = self.runs.iter().enumerate().filter(|(_, runs)| replaced(runs));
            let skip: Vec<usize> = steps.map(|(step, _)| step).collect();
            (part, skip)
        };
        parts(windows, blocks).into_iter().map(of).filter(|(_, skip)| !skip.is_empty()).collect()
    }
}

/// The ranges between the ends of windows: what all of them run or replace as a whole.
fn parts(windows: impl Iterator<Item = Window>, blocks: usize) -> Vec<Range<usize>> {
    let ends = windows.flat_map(|own| [own.front, blocks.saturating_sub(own.back)]);
    let cuts: Vec<usize> = ends.chain([0, blocks]).collect::<BTreeSet<_>>().into_iter().collect();
    cuts.windows(2).filter_map(|pair| Some(*pair.first()?..*pair.get(1)?)).collect()
}

/// Whether a part lies between the blocks of a window.
fn replaces(window: Window, blocks: usize, part: &Range<usize>) -> bool {
    part.start >= window.front && part.end <= blocks.saturating_sub(window.back)
}

/// The most schedules that are tried one by one; of more, those that lie on climbs.
const ALL: usize = 1 << 16;

/// Runs of at most this many steps are planned for every quarter of a computed step, not for whole ones.
const FEW: usize = 8;

impl Planner {
    /// Schedules of steps and windows that are better than every schedule of whole steps which takes no
    /// longer, the fastest first; for a model of `blocks` blocks. Empty if no windows were measured.
    ///
    /// Each range of blocks is replaced by its own residual of the last step at which it ran. What that does
    /// was measured where all replaced blocks ran last at the same step; else the oldest one counts. Of runs
    /// of few steps all schedules are compared, of longer ones those on climbs from the best ones of whole
    /// steps.
    pub fn windows(&self, blocks: usize, with: Continuation, objective: Objective) -> Vec<PlannedWindows> {
        let costs = self.costs(with);
        let Some(table) = Table::new(self, &costs, blocks, objective) else { return Vec::new() };
        let whole = path::least_sum(&costs, 1.0).into_iter().chain(path::least_sum(&costs, 2.0));
        let whole = whole.chain(self.schedules(with, objective).into_iter().map(|own| own.skip));
        let mut whole: Vec<Tried> = whole.filter_map(|skip| table.tried(table.whole(&skip))).collect();
        whole.sort_by(|a, b| a.time.total_cmp(&b.time));
        let steps = costs.len();
        let parts = if steps <= FEW { 4 } else { 1 };
        let times: Vec<f64> = (parts..steps * parts)
            .map(|place| place as f64 / parts as f64)
            .map(|computed| computed + (steps as f64 - computed) * table.least())
            .collect();
        let free = (0..steps).filter(|step| !costs.must_compute(*step)).count();
        let all = u32::try_from(free).ok().and_then(|free| table.times.len().checked_pow(free));
        let found = match all.filter(|all| *all <= ALL) {
            Some(_) => best_of(table.every(), &times),
            None => table.climbed(&whole, &times),
        };
        let mut kept: Vec<PlannedWindows> = Vec::new();
        let mut best: Option<Tried> = None;
        for own in found {
            let faster = whole.iter().filter(|other| other.time <= own.time + SAME);
            let rival = faster.chain(&best).min_by(|a, b| a.value.order(b.value));
            if rival.is_none_or(|rival| own.value.order(rival.value) == Ordering::Less) {
                kept.extend(table.planned(&own));
                best = Some(own);
            }
        }
        kept
    }
}

/// Times that differ by less are the same, in computed steps.
const SAME: f64 = 1e-9;

/// What the objective compares: the smaller first number is better, then the smaller second one.
#[derive(Clone, Copy, Debug)]
struct Value(f64, f64);

impl Value {
    fn order(self, other: Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.total_cmp(&other.1))
    }
}

/// A schedule: by step the place of what runs, of which 0 is everything and the last one nothing.
#[derive(Clone, Debug)]
struct Tried {
    choices: Vec<usize>,
    /// In computed steps.
    time: f64,
    value: Value,
}

/// Errors and times of every choice at every step.
struct Table<'c> {
    costs: &'c Costs<'c>,
    objective: Objective,
    windows: Vec<Window>,
    /// By choice: whether it replaces each of the parts.
    replaced: Vec<Vec<bool>>,
    /// By choice, relative to a computed step.
    times: Vec<f64>,
}

impl<'c> Table<'c> {
    fn new(planner: &Planner, costs: &'c Costs<'c>, blocks: usize, objective: Objective) -> Option<Self> {
        let runs = &planner.runs;
        let windows: Vec<Window> = runs.first()?.windows.iter().map(|own| own.window).collect();
        if windows.is_empty() {
            return None;
        }
        let parts = parts(windows.iter().copied(), blocks);
        let between = |own: &Window| parts.iter().map(|part| replaces(*own, blocks, part)).collect();
        let ends = |all: bool| std::iter::once(vec![all; parts.len()]);
        let mean = |of: &dyn Fn(usize) -> Option<f64>| {
            (0..runs.len()).filter_map(of).sum::<f64>() / runs.len() as f64
        };
        let own = |place: usize| mean(&|run| Some(runs.get(run)?.windows.get(place)?.cost));
        let nothing = mean(&|run| Some(runs.get(run)?.cost));
        Some(Self {
            costs,
            objective,
            replaced: ends(false).chain(windows.iter().map(between)).chain(ends(true)).collect(),
            times: std::iter::once(1.0).chain((0..windows.len()).map(own)).chain([nothing]).collect(),
            windows,
        })
    }

    /// The time of a step of which nothing runs.
    fn least(&self) -> f64 {
        self.times.last().copied().unwrap_or_default()
    }

    /// The choices of a schedule of whole steps.
    fn whole(&self, skip: &[usize]) -> Vec<usize> {
        let nothing = self.times.len().saturating_sub(1);
        (0..self.costs.len()).map(|step| if skip.contains(&step) { nothing } else { 0 }).collect()
    }

    /// What stands in at each step that does not compute everything: of several parts that ran last at
    /// different steps the oldest one counts. `None` if a step must be computed, or a part never ran.
    fn skips(&self, choices: &[usize]) -> Option<Vec<Skip>> {
        let parts = self.replaced.first()?.len();
        let mut ran: Vec<Option<(Option<usize>, usize)>> = vec![None; parts];
        let mut skips = Vec::with_capacity(choices.len());
        for (step, choice) in choices.iter().enumerate() {
            let replaced = self.replaced.get(*choice)?;
            let fresh = self.costs.must_compute(step);
            if *choice > 0 {
                let stale = ran.iter().zip(replaced).filter(|(_, replaced)| **replaced);
                let pairs = stale.map(|(ran, _)| *ran).collect::<Option<Vec<_>>>()?;
                let (before, last) = pairs.into_iter().min_by_key(|(_, last)| *last).filter(|_| !fresh)?;
                let window = choice.checked_sub(1).filter(|window| *window < self.windows.len());
                skips.push(Skip { before, last, step, window });
            }
            for (ran, _) in ran.iter_mut().zip(replaced).filter(|(_, replaced)| !**replaced) {
                *ran = Some((ran.map(|(_, last)| last).filter(|_| !fresh), step));
            }
        }
        Some(skips)
    }

    fn tried(&self, choices: Vec<usize>) -> Option<Tried> {
        let skips = self.skips(&choices)?;
        let sizes = || skips.iter().map(|skip| self.costs.one(*skip)).collect::<Option<Vec<f64>>>();
        let value = match self.objective {
            // As for whole steps.
            Objective::Final if self.costs.with() == Continuation::Line => {
                Value(self.costs.gaps(&skips)?, 0.0)
            }
            Objective::Final => Value(self.costs.all(&skips)?, 0.0),
            Objective::Sum => Value(sizes()?.iter().sum(), 0.0),
            Objective::Power(power) => Value(sizes()?.iter().map(|size| size.powf(power)).sum(), 0.0),
            Objective::Minimax => {
                let sizes = sizes()?;
                Value(sizes.iter().copied().fold(0.0, f64::max), sizes.iter().sum())
            }
        };
        let time = choices.iter().filter_map(|choice| self.times.get(*choice)).sum();
        Some(Tried { choices, time, value })
    }

    /// Every schedule that has a predicted error.
    fn every(&self) -> Vec<Tried> {
        let mut all: Vec<Vec<usize>> = vec![Vec::new()];
        for step in 0..self.costs.len() {
            let choices = if self.costs.must_compute(step) { 1 } else { self.times.len() };
            let longer = |own: Vec<usize>| {
                (0..choices).map(move |choice| own.iter().copied().chain([choice]).collect())
            };
            all = all.into_iter().flat_map(longer).collect();
        }
        all.into_iter().filter_map(|choices| self.tried(choices)).collect()
    }

    /// For each of `times` a schedule that takes no longer and that no change of one step, or of two
    /// near each other, makes better.
    fn climbed(&self, whole: &[Tried], times: &[f64]) -> Vec<Tried> {
        let mut found: Vec<Tried> = Vec::new();
        for limit in times {
            let below = whole.iter().filter(|own| own.time <= limit + SAME);
            let mut starts: Vec<Tried> = below.rev().take(STARTS).cloned().collect();
            starts.extend(found.last().cloned());
            let tops = starts.into_iter().map(|start| self.climb(start, *limit));
            found.extend(tops.min_by(|a, b| a.value.order(b.value)));
        }
        found
    }

    fn climb(&self, mut at: Tried, limit: f64) -> Tried {
        loop {
            let before = at.value;
            for (first, second) in self.near() {
                for place in 0..self.times.len() * self.times.len() {
                    let (a, b) = (place / self.times.len(), place % self.times.len());
                    let mut choices = at.choices.clone();
                    // The second change counts where both are of one step.
                    for (step, choice) in [(first, a), (second, b)] {
                        choices.iter_mut().skip(step).take(1).for_each(|own| *own = choice);
                    }
                    if choices == at.choices {
                        continue;
                    }
                    let time: f64 = choices.iter().filter_map(|choice| self.times.get(*choice)).sum();
                    if time > limit + SAME {
                        continue;
                    }
                    let better = |own: &Tried| own.value.order(at.value) == Ordering::Less;
                    if let Some(own) = self.tried(choices).filter(better) {
                        at = own;
                    }
                }
            }
            if at.value.order(before) != Ordering::Less {
                return at;
            }
        }
    }

    /// Pairs of steps near each other that need not be computed.
    fn near(&self) -> Vec<(usize, usize)> {
        let free: Vec<usize> = (0..self.costs.len()).filter(|step| !self.costs.must_compute(*step)).collect();
        let after = |place: usize| free.iter().skip(place + 1).take(WINDOW);
        let pairs = |(place, first): (usize, &usize)| {
            let first = *first;
            after(place).map(move |second| (first, *second)).collect::<Vec<_>>()
        };
        free.iter().enumerate().flat_map(pairs).collect()
    }

    fn planned(&self, own: &Tried) -> Option<PlannedWindows> {
        let skips = self.skips(&own.choices)?;
        let of = |choice: &usize| match choice.checked_sub(1) {
            None => Runs::All,
            Some(window) => self.windows.get(window).map_or(Runs::Nothing, |own| Runs::Window(*own)),
        };
        Some(PlannedWindows {
            runs: own.choices.iter().map(of).collect(),
            time: own.time / own.choices.len() as f64,
            error: self.costs.all(&skips)?,
            sum: skips.iter().map(|skip| self.costs.one(*skip)).sum::<Option<f64>>()?,
        })
    }
}

/// Climbs for one limit of time.
const STARTS: usize = 3;

/// For each of `times` the best schedule that takes no longer.
fn best_of(mut all: Vec<Tried>, times: &[f64]) -> Vec<Tried> {
    all.sort_by(|a, b| a.time.total_cmp(&b.time));
    let mut best: Option<Tried> = None;
    let mut left = all.into_iter().peekable();
    let mut found = Vec::new();
    for limit in times {
        while let Some(own) = left.next_if(|own| own.time <= limit + SAME) {
            if best.as_ref().is_none_or(|best| own.value.order(best.value) == Ordering::Less) {
                best = Some(own);
            }
        }
        found.extend(best.clone());
    }
    found
}
