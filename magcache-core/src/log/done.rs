//! Which passes of the current step have run, so that one that is run again is recognised.

use crate::{Branch, Step};

/// The passes of a step that ran to their end.
#[derive(Debug, Default)]
pub(crate) struct Done {
    step: usize,
    passes: Vec<Ran>,
}

#[derive(Debug, PartialEq)]
struct Ran {
    branch: Branch,
    eval: u8,
}

crate::fields!(Done { step, passes });
crate::fields!(Ran { branch, eval });

impl Done {
    pub(crate) fn has(&self, step: &Step, branch: Branch) -> bool {
        self.step == step.place() && self.passes.contains(&Ran { branch, eval: step.eval })
    }

    pub(crate) fn note(&mut self, step: &Step, branch: Branch, failed: bool) {
        if self.step != step.place() {
            *self = Self { step: step.place(), passes: Vec::new() };
        }
        let own = Ran { branch, eval: step.eval };
        self.passes.retain(|ran| *ran != own);
        if !failed {
            self.passes.push(own);
        }
    }
}
