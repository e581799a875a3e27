//! Decisions without tensors, for runtimes that are not candle.
//!
//! A runtime of one's own (another backend, bindings to a C++ program) keeps its tensors to itself. It states
//! step, branch and expert, answers with a number where a strategy asks for one, and is told which blocks to
//! compute and which to replace by what they added before:
//!
//! ```
//! use std::{convert::Infallible, ops::Range};
//! use magcache_core::{
//!     Branch, Guards, Rule, Trajectory, Verdict, Why,
//!     decisions::{Asked, Decisions, Runtime},
//!     state::HookId,
//!     strategy::Seen,
//! };
//!
//! struct Engine(Vec<&'static str>);
//!
//! impl Runtime for Engine {
//!     type Error = Infallible;
//!     fn compute(&mut self, _: Range<usize>) -> Result<(), Infallible> {
//!         Ok(self.0.push("compute"))
//!     }
//!     fn reuse(&mut self, _: HookId, _: Range<usize>) -> Result<(), Infallible> {
//!         Ok(self.0.push("reuse"))
//!     }
//!     fn measure(&mut self, _: &Asked<'_>) -> Result<f64, Infallible> {
//!         Ok(0.0)
//!     }
//! }
//!
//! /// A strategy of one's own; those of a TOML plan come from [`CachePlan::decisions`].
//! #[derive(Debug)]
//! struct EveryThird;
//!
//! impl Rule for EveryThird {
//!     fn decide(&self, seen: &Seen<'_>, _: &mut Option<f64>) -> Verdict {
//!         let compute = seen.step.index % 3 == 0;
//!         if compute { Verdict::compute(Why::Scheduled) } else { Verdict::reuse(Why::Scheduled) }
//!     }
//! }
//!
//! let run = Trajectory::plain(20, &[Branch::Cond]);
//! let decisions = Decisions::of(12, [(0..12, Box::new(EveryThird) as _, Guards::default())])?;
//! let (mut session, mut engine) = (decisions.session(), Engine(Vec::new()));
//! for step in run.steps() {
//!     session.pass(&step, Branch::Cond, &mut engine)?;
//! }
//! assert_eq!(engine.0.iter().filter(|done| **done == "reuse").count(), 13);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The rules of the hooks of candle models hold here too: nesting, windows, limits, and that a cache learns
//! only from blocks that really ran. Only strategies that are a [`Rule`] around blocks can be asked; those
//! that look at tensors themselves, whole forwards and modules inside blocks need candle.

mod ahead;
mod onion;
mod session;

use std::{ops::Range, sync::Arc};

pub use ahead::Ahead;
pub use session::DecisionSession;

use crate::{
    CachePlan, ConfigError, Expert, Guards, Level, ModelMeta, Problem, Rule, Strategy, Trajectory, Window,
    error::count, profile::Profile, state::HookId, strategy::Measure,
};

/// What runs a model's blocks and keeps its tensors.
///
/// A cache is a `[[cache]]` table, named by its place in the configuration from 0. Its tensors are kept apart
/// by cache, blocks, branch, expert and evaluation.
pub trait Runtime {
    /// What can go wrong. An error ends the pass, which has then decided nothing.
    type Error;

    /// Runs these blocks on the output of the blocks before them.
    fn compute(&mut self, blocks: Range<usize>) -> Result<(), Self::Error>;

    /// Adds to the output of the blocks before these what these added at the last [`Runtime::leave`].
    fn reuse(&mut self, cache: HookId, blocks: Range<usize>) -> Result<(), Self::Error>;

    /// The number that a strategy asks for, before any block of [`Asked::blocks`] runs.
    fn measure(&mut self, asked: &Asked<'_>) -> Result<f64, Self::Error>;

    /// These blocks of a cache will be computed, its front blocks or those that it may replace: a time to
    /// keep their input.
    fn enter(&mut self, _cache: HookId, _blocks: Range<usize>) -> Result<(), Self::Error> {
        Ok(())
    }

    /// All of these blocks have really run: what they added, their output less their input, is what the next
    /// [`Runtime::reuse`] adds.
    fn leave(&mut self, _cache: HookId, _blocks: Range<usize>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A number that a strategy asks for.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The cache.
    pub cache: HookId,
    /// The blocks that it may replace.
    pub blocks: Range<usize>,
    /// Its front blocks, which have just run: [`Runtime::enter`] was called before them.
    pub front: Range<usize>,
    /// What to measure.
    pub measure: &'a Measure,
    /// The step to compare with. `None` if there is none yet: then the quantity need only be kept, and the
    /// number that is returned does not count.
    pub since: Option<usize>,
}

/// The caches of a run, outermost first, as decisions. Shared by all requests.
#[derive(Debug)]
pub struct Decisions {
    rings: Vec<Ring>,
    blocks: usize,
}

/// Decisions, and the warnings to show before the run.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The caches.
    pub decisions: Arc<Decisions>,
    /// The non-fatal problems.
    pub warnings: Vec<Problem>,
}

/// A cache and its place.
#[derive(Debug)]
struct Ring {
    id: HookId,
    at: Range<usize>,
    experts: Vec<Expert>,
    rule: Box<dyn Rule>,
    guards: Guards,
}

impl Ring {
    fn acts_in(&self, expert: Expert) -> bool {
        self.experts.is_empty() || self.experts.contains(&expert)
    }

    /// What its state belongs to; numbers such as thresholds may change.
    fn words(&self, blocks: usize) -> String {
        let Self { at, rule, .. } = self;
        let (debug, Window { front, back }) = (format!("{rule:?}"), rule.window());
        let name = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let experts: Vec<u8> = self.experts.iter().map(|expert| expert.0).collect();
        let compares = rule.measure().map_or("nothing".to_owned(), |measure| format!("{measure:?}"));
        let place = format!("{at:?} of {} (front {front}, back {back})", count(blocks, "block"));
        format!("{name} around {place}, experts {experts:?}, compares {compares}")
    }
}

impl CachePlan {
    /// Validates everything against the model and the run, and builds the caches without tensors. Profiles
    /// are those in memory: a table reads the one that it names, and a table that names none the first.
    ///
    /// Errors: all fatal problems at once, among them tables that need tensors.
    pub fn decisions(
        &self,
        model: &ModelMeta,
        trajectory: Option<&Trajectory>,
        profiles: &[Profile],
    ) -> Result<Decided, ConfigError> {
        let resolved = self.resolve(model, trajectory, profiles)?;
        let mut warnings = resolved.warnings;
        if !self.residuals.is_default() {
            let message = "what is stored for reuse is the runtime's own here";
            warnings.push(Problem::warning("[residuals]", message).hint("remove the table"));
        }
        let (mut problems, mut rings) = (Vec::new(), Vec::new());
        if self.audit.acts() {
            let message = "audits compare tensors, which are not seen here";
            problems.push(Problem::error("[audit]", message).hint("remove the table"));
        }
        for (i, here) in resolved.placed.into_iter().enumerate() {
            let id = HookId(u16::try_from(i).unwrap_or(u16::MAX));
            #[cfg(feature = "candle")]
            if self.cache[i].words.forecast.is_some() {
                let message = "`forecast` computes tensors, which are not seen here";
                let hint = "remove it: a runtime adds what the blocks added before";
                problems.push(Problem::error(&here.place, message).hint(hint));
            }
            match (here.level, here.strategy) {
                (Level::Blocks, Some(Strategy::Rule(rule, guards))) => {
                    rings.push(Ring { id, at: here.range, experts: here.experts, rule, guards });
                }
                _ => {
                    let message = "it looks at tensors, or not at blocks, so it cannot decide without them";
                    let hint = "use magcache, teacache, fbcache, dbcache or schedule around blocks";
                    problems.push(Problem::error(here.place, message).hint(hint));
                }
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError::Problems(problems));
        }
        Ok(Decided { decisions: Arc::new(Decisions { rings, blocks: model.blocks() }), warnings })
    }
}

impl Decisions {
    /// The state of one new request.
    pub fn session(self: &Arc<Self>) -> DecisionSession {
        DecisionSession::new(Arc::clone(self))
    }

    /// Caches of strategies that are built already, outermost first, around these blocks of a model.
    ///
    /// Errors: a range that is empty or extends past the last block.
    pub fn of(
        blocks: usize,
        strategies: impl IntoIterator<Item = (Range<usize>, Box<dyn Rule>, Guards)>,
    ) -> Result<Arc<Self>, ConfigError> {
        let mut rings = Vec::new();
        for (i, (at, rule, guards)) in strategies.into_iter().enumerate() {
            if at.is_empty() || at.end > blocks {
                return Err(ConfigError::Range { at, blocks });
            }
            let id = HookId(u16::try_from(i).unwrap_or(u16::MAX));
            rings.push(Ring { id, at, experts: Vec::new(), rule, guards });
        }
        Ok(Arc::new(Self { rings, blocks }))
    }

    /// The caches, as a stored state names them.
    fn words(&self) -> Vec<String> {
        self.rings.iter().map(|ring| ring.words(self.blocks)).collect()
    }

    /// Whether no decision needs a number, so that all of them are known before the run.
    pub fn is_static(&self) -> bool {
        self.rings.iter().all(|ring| ring.rule.measure().is_none())
    }
}
