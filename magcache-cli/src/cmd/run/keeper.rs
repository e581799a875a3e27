//! Keeps the state of a run, on one rank or on several.

use anyhow::Result;
use magcache_core::snapshot::Snapshot;
use magcache_models::{pipeline::Generation, ranks::Ranks};

use crate::{
    console::{Console, Failure},
    ranks::of_all,
    resume::{StateFolder, is_due},
};

/// The folder of `--checkpoint`, which the first rank has, and when all give it their state.
pub(super) struct Keeper<'r> {
    pub(super) folder: Option<StateFolder>,
    /// Steps from one stored state to the next.
    pub(super) every: usize,
    pub(super) ranks: Option<&'r Ranks>,
}

impl Keeper<'_> {
    /// Stores the state before the first step, where the folder does not know of this run yet: finds out now,
    /// not after an hour of work, if it cannot be written to.
    pub(super) fn begin(&mut self, run: &Generation) -> Result<()> {
        let news = self.folder.as_ref().is_some_and(StateFolder::is_news);
        let news = match self.ranks {
            None => news,
            Some(ranks) => ranks.world().any("whether the state is stored", news)?,
        };
        if news { self.save(run) } else { Ok(()) }
    }

    /// Stores the state after a step, if it is due. A run that cannot be stored goes on.
    pub(super) fn after_step(&mut self, run: &Generation, out: &Console) -> Result<()> {
        if !is_due(self.every, run) {
            return Ok(());
        }
        let all = self.state(run)?;
        if let Some(folder) = &mut self.folder
            && let Err(error) = folder.save(run, all)
        {
            let hint = Failure::of(&error).hint;
            out.warn(&format!("the state is not stored, the run goes on: {error:#}"), hint.as_deref());
        }
        Ok(())
    }

    fn save(&mut self, run: &Generation) -> Result<()> {
        let all = self.state(run)?;
        self.folder.as_mut().map_or(Ok(()), |folder| folder.save(run, all))
    }

    /// The state of all ranks, on the first one.
    fn state(&self, run: &Generation) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        run.save(&mut snapshot.writer())?;
        of_all(self.ranks, snapshot)
    }
}
