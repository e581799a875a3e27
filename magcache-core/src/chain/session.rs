//! The state of one request.

use std::{any::Any, fmt, sync::Arc};

use super::pass::{Open, Pass, State};
use crate::{
    Branch, HookRegistry, Step,
    group::{Branches, Group},
    log::{DecisionLog, Done},
    snapshot::{Persist, Reader, SnapshotError, Writer},
    state::{SlotKey, Slots},
};

/// All state of one request. Create a new one for each request; nothing is ever reset.
pub struct Session {
    registry: Arc<HookRegistry>,
    slots: Slots,
    log: DecisionLog,
    done: Done,
    group: Option<Group>,
    branches: Option<Branches>,
}

impl HookRegistry {
    /// The state of one new request.
    pub fn session(self: &Arc<Self>) -> Session {
        let (registry, slots) = (Arc::clone(self), Slots::new(self.storage().budget));
        Session {
            registry,
            slots,
            log: DecisionLog::default(),
            done: Done::default(),
            group: None,
            branches: None,
        }
    }
}

impl Session {
    /// The same session on one of several ranks that run the same passes, each with its own tokens: metrics
    /// are those of all tokens, and every decision is compared before it is acted on.
    #[must_use]
    pub fn in_group(self, group: Group) -> Self {
        Self { group: Some(group), ..self }
    }

    /// The same session, which can run one branch of a step alone ([`Session::pass_beside`]) while the other
    /// ranks of `group` run the others, in the order of the branches. A group of one changes nothing.
    #[must_use]
    pub fn beside(self, group: Group) -> Self {
        let branches = (group.size() > 1).then(|| Branches::new(group));
        Self { branches, ..self }
    }

    /// Ends a step of which this session ran `branch`: the log then has the decisions of all branches.
    ///
    /// # Errors
    /// Ranks of other branches that do not answer.
    pub fn join_branches(&mut self, step: &Step, branch: Branch) -> candle_core::Result<()> {
        let Self { branches, log, slots, .. } = self;
        let Some(branches) = branches else { return Ok(()) };
        let held = branches.join(log, step, branch, slots.bytes())?;
        slots.noted(held);
        Ok(())
    }

    /// Begins one forward of one branch at one step. Frees the slots of experts whose phase is over.
    ///
    /// Step, evaluation and branch identify a pass. Running one again before the next step, because its step
    /// was cancelled or something in it failed, is a retry of the same pass: it makes the same decision,
    /// returns the same output and leaves the same state as the first time, or as if the first time had not
    /// failed, and is logged once. So a step can simply be run again from its beginning; the session need not
    /// be told. A solver that evaluates a step twice says so in [`Step::eval`].
    pub fn pass(&mut self, step: &Step, branch: Branch) -> Pass<'_> {
        self.open(step, branch, false)
    }

    /// As [`Session::pass`], while other ranks run the other branches of the step; then
    /// [`Session::join_branches`].
    pub fn pass_beside(&mut self, step: &Step, branch: Branch) -> Pass<'_> {
        self.open(step, branch, true)
    }

    fn open(&mut self, step: &Step, branch: Branch, beside: bool) -> Pass<'_> {
        let Self { registry, slots, log, done, group, branches } = self;
        slots.begin(step);
        let mut branches = branches.as_mut().filter(|_| beside);
        if let Some(branches) = &mut branches {
            branches.began = slots.bytes();
        }
        log.begin(done.has(step, branch));
        Pass(Some(Open {
            registry,
            slots,
            log,
            done: Some(done),
            group: group.as_ref(),
            branches,
            step: step.clone(),
            branch,
            forced: false,
            state: State::Fresh,
        }))
    }

    /// Writes everything that a later pass depends on, and every decision so far. Can be called after any
    /// pass.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] if a custom hook does not store its slots.
    pub fn save(&self, to: &mut Writer<'_>) -> std::result::Result<(), SnapshotError> {
        let write = |key: &SlotKey, slot: &dyn Any, to: &mut Writer<'_>| {
            self.registry.hook(key.hook)?.save_slot(key, slot, to)
        };
        self.slots.save(write, &mut to.at("slots"))?;
        to.field("log", &self.log);
        to.field("done", &self.done);
        Ok(())
    }

    /// Restores the state written by [`Session::save`] into a session of the same hooks: every later pass
    /// gives the same bits and decisions as in the original session.
    ///
    /// # Errors
    /// A part that is missing, malformed, or of an unknown hook; the session is then unchanged.
    pub fn restore(&mut self, from: &Reader<'_>) -> std::result::Result<(), SnapshotError> {
        let read = |key: &SlotKey, from: &Reader<'_>| self.registry.hook(key.hook)?.load_slot(key, from);
        let slots = Slots::read(self.registry.storage().budget, read, &from.at("slots"))?;
        let done = from.field("done")?;
        let mut log = DecisionLog::default();
        log.load(&from.at("log"))?;
        (self.slots, self.log, self.done) = (slots, log, done);
        Ok(())
    }

    /// The hooks.
    pub fn registry(&self) -> &Arc<HookRegistry> {
        &self.registry
    }

    /// Every decision so far.
    pub fn log(&self) -> &DecisionLog {
        &self.log
    }

    /// The slots, with bytes held, peak and evictions.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, slots, log, .. } = self;
        let mut out = f.debug_struct("Session");
        out.field("registry", registry).field("slots", slots).field("log", log).finish_non_exhaustive()
    }
}
