//! What is known of a run before it begins.

use std::{convert::Infallible, ops::Range, sync::Arc};

use super::{
    Asked, Decisions, Ring, Runtime,
    onion::{parts, windows},
};
use crate::{Branch, Step, Trajectory, Why, state::HookId, strategy::History};

/// The blocks of one pass, before it runs; together all of them that may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// Step of the trajectory.
    pub step: usize,
    /// Guidance branch.
    pub branch: Branch,
    /// Blocks that will run.
    pub computed: Vec<Range<usize>>,
    /// Blocks that run or are replaced, as a number decides that is not known yet.
    pub open: Vec<Range<usize>>,
}

impl Decisions {
    /// Every pass of a run, in order, with the blocks that will run: the weights of the others need not be
    /// there. Without a strategy that measures, all is known and [`Ahead::open`] is empty.
    pub fn ahead(self: &Arc<Self>, run: &Trajectory) -> Vec<Ahead> {
        let mut session = self.is_static().then(|| self.session());
        let passes = run.steps().flat_map(|step| {
            let branches = run.branches_at(&step).to_vec();
            branches.into_iter().map(move |branch| (step.clone(), branch))
        });
        let one = |(step, branch): (Step, Branch)| {
            let mut seen = Ahead { step: step.place(), branch, computed: Vec::new(), open: Vec::new() };
            match &mut session {
                Some(session) => {
                    let Ok(()) = session.pass(&step, branch, &mut Marks(&mut seen.computed));
                }
                None => look(&self.rings, 0..self.blocks, &step, &mut seen),
            }
            seen
        };
        passes.map(one).collect()
    }
}

/// A runtime that marks what is computed.
struct Marks<'a>(&'a mut Vec<Range<usize>>);

impl Runtime for Marks<'_> {
    type Error = Infallible;

    fn compute(&mut self, blocks: Range<usize>) -> Result<(), Infallible> {
        mark(self.0, blocks);
        Ok(())
    }

    fn reuse(&mut self, _: HookId, _: Range<usize>) -> Result<(), Infallible> {
        Ok(())
    }

    fn measure(&mut self, _: &Asked<'_>) -> Result<f64, Infallible> {
        Ok(f64::NAN)
    }
}

/// Adds a range, to the last one if it continues it.
fn mark(ranges: &mut Vec<Range<usize>>, blocks: Range<usize>) {
    match ranges.last_mut() {
        _ if blocks.is_empty() => {}
        Some(last) if last.end == blocks.start => last.end = blocks.end,
        _ => ranges.push(blocks),
    }
}

/// What limits and windows say of a pass whatever is measured.
fn look(rings: &[Ring], blocks: Range<usize>, step: &Step, seen: &mut Ahead) {
    let Some((ring, inner)) = rings.split_first() else { return mark(&mut seen.computed, blocks) };
    if !ring.acts_in(step.expert) {
        return look(inner, blocks, step, seen);
    }
    let [before, inside, after] = parts(&blocks, &ring.at);
    look(inner, before, step, seen);
    match windows(&inside, ring.rule.window()) {
        Some([front, middle, back]) => {
            mark(&mut seen.computed, front);
            match ring.guards.verdict(step, &History::default()) {
                Some(Why::Warmup | Why::LastSteps) => look(inner, middle, step, seen),
                _ => mark(&mut seen.open, middle),
            }
            mark(&mut seen.computed, back);
        }
        None => look(inner, inside, step, seen),
    }
    look(inner, after, step, seen);
}
