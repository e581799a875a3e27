//! Strategies that decide from numbers: what they ask for, and what they make of it.

use std::fmt::Debug;

use crate::{Branch, Signal, Step, Verdict, Window, strategy::History};

/// The decision of a strategy as a function of the step, the history and at most one measured number.
///
/// `self` is configuration and never changes. The tensors behind the number are kept and compared by whoever
/// runs the rule: [`CacheHook`](crate::strategy::CacheHook) for candle models, a
/// [`Runtime`](crate::decisions::Runtime) for others. So one rule serves both.
pub trait Rule: Debug + Send + Sync + 'static {
    /// The blocks that always run.
    fn window(&self) -> Window {
        Window::default()
    }

    /// The number that it needs. Without one, its decisions are known before the run.
    fn measure(&self) -> Option<Measure> {
        None
    }

    /// The threshold that [`Verdict::accumulated`] is compared with at a step, for charts; `None` if there is
    /// none.
    fn threshold(&self, _step: &Step) -> Option<f64> {
        None
    }

    /// Called once per step and branch, also during warm-up. `carried` is what the rule remembers since the
    /// last computed step; after one it is `None`.
    fn decide(&self, seen: &Seen<'_>, carried: &mut Option<f64>) -> Verdict;
}

/// What a rule decides from.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Where the pass stands.
    pub step: &'a Step,
    /// The guidance branch.
    pub branch: Branch,
    /// What the slot did so far.
    pub history: History,
    /// The number that [`Rule::measure`] asks for; `None` if there is nothing yet to compare with.
    pub measured: Option<f64>,
}

/// A relative distance between what is now and what was before, `‖now − before‖ / ‖before‖`: of a batch, that
/// of its worst row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// What is compared.
    pub of: Quantity,
    /// With which earlier one.
    pub since: Since,
    /// In which norm.
    pub norm: Norm,
    /// Every how many-th token counts; 1 for all of them.
    pub every: usize,
}

/// What a rule can compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// What the blocks of [`Window::front`] added to the denoised stream, `[batch, tokens, channels]`.
    FrontResidual,
    /// What they added to all streams, the text or whatever else lies beside the denoised one included.
    FrontResidualOfAll,
    /// A signal of the model; only for ranges that begin at block 0.
    Signal(Signal),
}

/// The earlier step to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The step before, whether it was computed or not.
    Previous,
    /// The last step at which every block of the range really ran.
    Computed,
}

/// How the values of a tensor become a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// The sum of absolute values.
    L1,
    /// The root of the sum of squares.
    L2,
}
