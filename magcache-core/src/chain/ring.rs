//! Hooks with their place.

use std::{ops::Range, sync::Arc};

use crate::{BlockHook, Expert, state::HookId};

/// A hook and its place.
#[derive(Clone, Debug)]
pub struct Ring {
    /// The blocks that it surrounds, or whose modules it surrounds.
    pub at: Range<usize>,
    /// Its name.
    pub id: HookId,
    /// The experts whose steps it acts in; empty means all.
    pub experts: Vec<Expert>,
    /// The hook.
    pub hook: Arc<dyn BlockHook>,
}

impl Ring {
    pub(super) fn acts_in(&self, expert: Expert) -> bool {
        self.experts.is_empty() || self.experts.contains(&expert)
    }
}

/// The rings around one module of every block that has it, outermost first.
#[derive(Clone, Debug)]
pub struct ModuleRings {
    pub(crate) name: Arc<str>,
    pub(crate) rings: Vec<Ring>,
}

impl ModuleRings {
    /// The module's name in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its rings, outermost first.
    pub fn rings(&self) -> &[Ring] {
        &self.rings
    }
}
