//! What a random plan is made of, for the chain and for the interpreter alike.

use std::ops::Range;

/// Where a ring sits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    Blocks(Range<usize>),
    Module(&'static str),
    Forward,
}

/// When a ring replaces what is inside.
#[derive(Clone, Debug)]
pub(crate) enum When {
    /// At these steps, by branch: cond, others.
    Steps(Vec<usize>, Vec<usize>),
    /// While the residual of its front blocks is nearer to that of the last computed step than this.
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
    /// The other branches take the conditional one's decision.
    pub(crate) follows: bool,
    /// The other branches are rebuilt from the conditional one.
    pub(crate) leader: bool,
    /// Empty: in the steps of every expert.
    pub(crate) experts: Vec<u8>,
}
