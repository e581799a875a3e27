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
//! Your model hands its blocks to the pass, a cache plan in TOML names the caches around them, and the
//! sampling loop tells each pass its step and branch:
//!
//! ```
//! use candle_core::{Device, Result, Tensor};
//! use magcache_core::{Branch, CachePlan, ModelMeta, Pass, Streams, Trajectory, no_signals};
//!
//! struct Model {
//!     blocks: Vec<f64>,
//! }
//!
//! impl Model {
//!     /// Latents in, velocity out; both `[batch, tokens, channels]`.
//!     fn forward(&self, latents: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
//!         pass.forward(latents.clone(), |latents, pass| {
//!             let block = |i: usize, x: Streams| {
//!                 let x = x.into_image()?;
//!                 Ok(Streams::Image((&x + (x.tanh()? * self.blocks[i])?)?))
//!             };
//!             pass.run(self.blocks.len(), &no_signals, Streams::Image(latents), block)?.into_image()
//!         })
//!     }
//! }
//!
//! // Strategies register themselves; a program that names nothing else of their crate links it so.
//! magcache_strategies::link();
//! let plan = CachePlan::parse(
//!     r#"
//!     [[cache]]
//!     strategy = "fbcache"
//!     threshold = 0.2
//!     "#,
//! )?;
//! let model = Model { blocks: vec![0.1, 0.2, 0.1] };
//! let run = Trajectory::plain(20, &[Branch::Cond, Branch::Uncond]);
//! let built = plan.build(&ModelMeta::simple("mine", model.blocks.len()), Some(&run))?;
//! built.warnings.iter().for_each(|problem| eprintln!("{problem}"));
//!
//! // All state is the request's: a session for each.
//! let mut session = built.registry.session();
//! let mut latents = Tensor::ones((1, 16, 8), candle_core::DType::F32, &Device::Cpu)?;
//! for step in run.steps() {
//!     let cond = model.forward(&latents, &mut session.pass(step.clone(), Branch::Cond))?;
//!     let uncond = model.forward(&latents, &mut session.pass(step, Branch::Uncond))?;
//!     let velocity = (&uncond + ((cond - &uncond)? * 5.0)?)?;
//!     latents = (latents - (velocity * 0.05)?)?;
//! }
//! let skipped = session.log().records().iter().filter(|record| record.reused).count();
//! assert!(skipped > 0, "the first block ran in every pass, the others did not in {skipped} of 40");
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
//! hooks.session().pass(Step::plain(0, 1), Branch::Cond).run(1, &no_signals, x, |_, x| Ok(x))?;
//! assert_eq!(*said.lock().unwrap(), ["outer in", "inner in", "inner out", "outer out"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A session cannot serve two requests at once; sharing one is a compile error:
//!
//! ```compile_fail,E0499
//! # use magcache_core::{Branch, HookRegistry, Step};
//! let mut session = HookRegistry::builder(1).build().session();
//! let a = session.pass(Step::plain(0, 1), Branch::Cond);
//! let b = session.pass(Step::plain(0, 1), Branch::Uncond);
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
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "candle")]
mod threads;

// Everyday items for authors of models and strategies; everything else is in its module.
#[cfg(feature = "candle")]
pub use chain::{
    hook::{BlockHook, Cx, Output},
    module::Modules,
    next::Next,
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
