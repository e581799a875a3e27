//! What the model would predict if the blocks of a step were replaced.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use candle_core::{Result, bail};

use crate::{
    BlockHook, Branch, Cx, Expert, HookRegistry, ModelMeta, Next, Output, Session, Streams,
    forecast::{Entered, Forecast, LastResidual},
    snapshot::Persist,
    state::{HookId, SlotKey, StoragePolicy},
};

/// Keeps the residuals of a range of blocks at the last steps of a dense run and changes nothing; makes hooks
/// that replace these blocks by one of them.
///
/// A step can thus be rehearsed with the residual of each of the preceding steps, at the cost of a skipped
/// pass each. Holds `reach` residuals per branch.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    id: HookId,
    range: Range<usize>,
    blocks: usize,
    reach: usize,
    keep_text: bool,
}

/// Residuals by step, oldest first.
#[derive(Default)]
struct Kept(VecDeque<(usize, Arc<LastResidual>)>);

/// Adds a residual to its input: for each branch its own.
#[derive(Debug)]
struct StandIn(Vec<(Branch, Arc<LastResidual>)>);

impl Rehearsal {
    /// For the ring `id` around the blocks `range` of `model`; keeps `reach` residuals. The ranges of several
    /// must lie inside or apart from each other.
    pub fn new(id: HookId, range: Range<usize>, model: &ModelMeta, reach: usize) -> Self {
        let blocks = model.blocks();
        let keep_text = model.text_after || range.end < blocks;
        Self { id, range, blocks, reach, keep_text }
    }

    /// The blocks that it is around.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The steps of `expert` whose residuals are held for all of `branches`, oldest first.
    pub fn sources(&self, session: &Session, expert: Expert, branches: &[Branch]) -> Vec<usize> {
        let Some((first, others)) = branches.split_first() else { return Vec::new() };
        let of = |branch| self.kept(session, expert, branch).map(|(step, _)| *step);
        let shared = |step: &usize| others.iter().all(|branch| of(*branch).any(|other| other == *step));
        of(*first).filter(shared).collect()
    }

    /// Hooks that replace the blocks of the range by the residual of step `source`; the pass of a branch
    /// without one fails.
    ///
    /// # Errors
    /// A range that the model does not have.
    pub fn stand_in(
        &self,
        session: &Session,
        expert: Expert,
        branches: &[Branch],
        source: usize,
    ) -> std::result::Result<Arc<HookRegistry>, crate::ConfigError> {
        let of = |branch: &Branch| {
            let mut kept = self.kept(session, expert, *branch);
            kept.find(|(step, _)| *step == source).map(|(_, residual)| (*branch, Arc::clone(residual)))
        };
        let hook = StandIn(branches.iter().filter_map(of).collect());
        Ok(HookRegistry::builder(self.blocks).ring(self.range(), Arc::new(hook))?.build())
    }

    fn key(&self, expert: Expert, branch: Branch) -> SlotKey {
        SlotKey { hook: self.id, blocks: self.range(), expert, branch, eval: 0 }
    }

    fn kept<'s>(
        &self,
        session: &'s Session,
        expert: Expert,
        branch: Branch,
    ) -> impl Iterator<Item = &'s (usize, Arc<LastResidual>)> + use<'s> {
        session.slots().peek::<Kept>(&self.key(expert, branch)).into_iter().flat_map(|kept| &kept.0)
    }
}

impl BlockHook for Rehearsal {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let kept = |streams: &Streams| {
            if self.keep_text { Ok(streams.clone()) } else { streams.without_text() }
        };
        let key = self.key(cx.step.expert, cx.branch);
        let entered = kept(&x)?;
        let out = next.run(cx, x)?;
        let mut residual = LastResidual::default();
        let at = Entered::new(cx.step, &entered);
        residual.observe(&at, &kept(&out.streams)?, &StoragePolicy::default())?;
        let Kept(mut all) = cx.slots.take(&key);
        // A step that is run again is kept only once.
        all.retain(|(step, _)| *step != cx.step.index);
        all.push_back((cx.step.index, Arc::new(residual)));
        while all.len() > self.reach {
            all.pop_front();
        }
        let bytes = all.iter().map(|(_, residual)| residual.bytes()).sum();
        cx.slots.put(key, Kept(all), bytes);
        Ok(out)
    }
}

impl BlockHook for StandIn {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let own = self.0.iter().find(|(branch, _)| *branch == cx.branch);
        let Some((_, residual)) = own else { bail!("no residual is kept for branch {}", cx.branch) };
        let Some(streams) = residual.predict(&Entered::new(cx.step, &x))? else {
            bail!("an empty residual is kept")
        };
        next.skip(cx);
        Ok(Output { streams, exact: false })
    }
}
