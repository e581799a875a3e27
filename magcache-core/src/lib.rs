//! Timestep caching for diffusion transformers: the interface between strategies and models.
//!
//! Neighbouring denoising steps change little, so a step can often reuse what the transformer's blocks added
//! to their input at an earlier step. A *hook* surrounds a range of blocks, a module inside every block
//! ([`Pass::run_modules`]) or the whole forward ([`Pass::forward`]); it gets the streams and [`Next`], the
//! rest of the onion, which it may run whole, in parts, or not at all. A *strategy* ([`TimestepCache`])
//! decides when to skip; a [`Forecast`](forecast::Forecast) provides the replacement;
//! [`CacheHook`](strategy::CacheHook) is the only adapter between them and the chain. All mutable state lives
//! in the slots of a [`Session`] owned by the request, and the sampler supplies step, branch and expert.
//! Without a session, [`Pass::run`] is the plain loop.
//!
//! Your model hands its blocks to the pass, and the sampling loop tells each pass its step and branch:
//!
//! ```
//! use candle_core::{DType, Device, Result, Tensor};
//! use magcache_core::{
//!     Branch, Guards, HookRegistry, Pass, Rule, Strategy, Trajectory, Verdict, Why, strategy::Seen,
//! };
//!
//! struct Model {
//!     blocks: Vec<f64>,
//! }
//!
//! impl Model {
//!     /// Latents in, velocity out; both `[batch, tokens, channels]`.
//!     fn forward(&self, latents: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
//!         pass.blocks(&self.blocks, latents.clone(), |weight, x| x + (x.tanh()? * *weight)?)
//!     }
//! }
//!
//! /// A strategy of one's own. Those of `magcache-strategies` come from a TOML plan: see [`CachePlan`].
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
//! let model = Model { blocks: vec![0.1, 0.2, 0.1] };
//! let strategy = Strategy::rule(EveryThird, Guards::default());
//! let hooks = HookRegistry::builder(model.blocks.len()).strategy(0..3, strategy)?.build();
//! let run = Trajectory::plain(20, &[Branch::Cond, Branch::Uncond]);
//!
//! // All state is the request's: a session for each.
//! let mut session = hooks.session();
//! let mut latents = Tensor::ones((1, 16, 8), DType::F32, &Device::Cpu)?;
//! for step in run.steps() {
//!     let cond = model.forward(&latents, &mut session.pass(&step, Branch::Cond))?;
//!     let uncond = model.forward(&latents, &mut session.pass(&step, Branch::Uncond))?;
//!     let velocity = (&uncond + ((cond - &uncond)? * 5.0)?)?;
//!     latents = (latents - (velocity * 0.05)?)?;
//! }
//! let skipped = session.log().records().iter().filter(|record| record.reused).count();
//! assert_eq!(skipped, 26, "of 40 passes");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The order of hooks is their nesting order, the first outermost:
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use candle_core::{Device, Tensor};
//! use magcache_core::{BlockHook, Branch, Cx, HookRegistry, Next, Output, Step, Streams, no_signals};
//!
//! #[derive(Debug)]
//! struct Say(&'static str, Arc<Mutex<Vec<String>>>);
//! impl BlockHook for Say {
//!     fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> candle_core::Result<Output> {
//!         self.1.lock().unwrap().push(format!("{} in", self.0));
//!         let y = next.run(cx, x)?;
//!         self.1.lock().unwrap().push(format!("{} out", self.0));
//!         Ok(y)
//!     }
//! }
//!
//! let said = Arc::default();
//! let hooks = HookRegistry::builder(1)
//!     .ring(0..1, Arc::new(Say("outer", Arc::clone(&said))))?
//!     .ring(0..1, Arc::new(Say("inner", Arc::clone(&said))))?
//!     .build();
//! let x = Streams::Image(Tensor::zeros((1, 1, 1), candle_core::DType::F32, &Device::Cpu)?);
//! hooks.session().pass(&Step::plain(0, 1), Branch::Cond).run(1, &no_signals, x, |_, x| Ok(x))?;
//! assert_eq!(*said.lock().unwrap(), ["outer in", "inner in", "inner out", "outer out"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A session cannot serve two requests at once; sharing one is a compile error:
//!
//! ```compile_fail,E0499
//! # use magcache_core::{Branch, HookRegistry, Step};
//! let mut session = HookRegistry::builder(1).build().session();
//! let a = session.pass(&Step::plain(0, 1), Branch::Cond);
//! let b = session.pass(&Step::plain(0, 1), Branch::Uncond);
//! drop((a, b));
//! ```

#[cfg(feature = "candle")]
pub mod calibrate;
#[cfg(feature = "candle")]
pub mod chain;
pub mod config;
pub mod decisions;
pub mod error;
#[cfg(feature = "candle")]
pub mod forecast;
pub mod group;
pub mod keys;
pub mod log;
pub mod meta;
#[cfg(feature = "candle")]
pub mod metrics;
pub mod planner;
pub mod profile;
pub mod run;
#[cfg(feature = "candle")]
pub mod schedule;
pub mod snapshot;
pub mod state;
pub mod strategy;
#[cfg(feature = "candle")]
mod streams;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "candle")]
mod threads;

// Everyday items for authors of models and strategies; everything else is in its module.
#[cfg(feature = "candle")]
pub use chain::{
    hook::{BlockHook, Cx},
    module::Modules,
    next::Next,
    output::Output,
    pass::{Pass, no_signals},
    registry::HookRegistry,
    session::Session,
    stacks::Stacks,
};
pub use config::{
    plan::CachePlan,
    strategy::{BuildCx, CacheConfig, Strategy},
};
pub use error::{config::ConfigError, hint, problem::Problem};
pub use group::Group;
pub use log::why::Why;
pub use meta::{
    info::{Level, StrategyInfo},
    model::{ModelMeta, Role, Signal, StackMeta},
};
pub use run::{
    step::{Branch, Expert, Phase, Step},
    trajectory::Trajectory,
};
#[cfg(feature = "candle")]
pub use strategy::{cache::TimestepCache, head::Head};
pub use strategy::{
    guards::{Guards, Warmup},
    rule::Rule,
    verdict::{Verdict, Window},
};
#[cfg(feature = "candle")]
pub use streams::Streams;

// Re-exported so that a plugin crate need not match the versions itself.
pub use inventory;
#[cfg(feature = "keys")]
pub use schemars;
pub use typetag;
