//! The parts of a random plan, for the chain and the interpreter alike.

use std::ops::Range;

/// Where a ring sits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    Blocks(Range<usize>),
    Module(&'static str),
    Forward,
}

/// When a ring replaces its content.
#[derive(Clone, Debug)]
pub(crate) enum When {
    /// At these steps: those of cond, and those of the other branches.
    Steps(Vec<usize>, Vec<usize>),
    /// While the residual of its front blocks is closer than this to that of the last computed step.
    Near(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stand {
    Residual,
    Output,
    /// The line through the last two residuals.
    Line,
}

#[derive(Clone, Debug)]
pub(crate) struct Ring {
    pub(crate) place: Place,
    pub(crate) when: When,
    pub(crate) stand: Stand,
    pub(crate) front: usize,
    pub(crate) back: usize,
    pub(crate) warmup: usize,
    pub(crate) last_steps: usize,
    pub(crate) max_skips: Option<usize>,
    pub(crate) max_total: Option<usize>,
    /// The other branches follow the conditional one's decision.
    pub(crate) follows: bool,
    /// The other branches are rebuilt from the conditional one.
    pub(crate) leader: bool,
    /// Empty means all experts.
    pub(crate) experts: Vec<u8>,
}
