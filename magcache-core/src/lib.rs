//! Timestep caching for diffusion transformers: the parts that strategies and models meet at.
//!
//! Neighbouring denoising steps change little, so a step can often reuse what the transformer's blocks added to
//! their input at an earlier step. A *hook* surrounds a range of blocks, a module inside every block
//! ([`Pass::run_modules`]) or the whole forward ([`Pass::forward`]); it gets the streams and [`Next`], the rest
//! of the onion, which it may run whole, in parts, or not at all. A *strategy* ([`TimestepCache`]) says when to
//! skip; a [`Forecast`] says what stands in; [`CacheHook`] is the one adapter between them and the chain. All
//! mutable state sits in the slots of a [`Session`] that the request owns, and the sampler states step, branch and
//! expert. With no session, [`Pass::run`] is the plain loop.
//!
//! A model of your own hands its blocks to the pass, a plan in TOML says which caches surround them, and the sampler's loop
//! says where it stands. That is all there is to it:
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
//! The order of hooks is the order of nesting, first outermost:
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

mod adapter;
mod audit;
mod cache;
pub mod calibrate;
mod config;
mod error;
mod exclusion;
mod forecast;
mod guards;
mod half;
mod hook;
mod keys;
mod log;
pub mod meta;
pub mod metrics;
mod module;
pub mod planner;
mod plans;
mod profile;
mod registry;
pub mod resample;
pub mod schedule;
mod session;
mod slots;
mod snapshot;
mod step;
mod storage;
mod streams;
mod syntax;
#[cfg(feature = "testing")]
pub mod testing;
mod threads;
mod trajectory;
mod words;

pub use adapter::CacheHook;
pub use audit::{Audit, AuditPolicy, OnDrift};
pub use cache::{AnyCache, AnyState, Base, Head, History, SlotState, TimestepCache, Verdict, Window};
pub use config::{BuildCx, Built, CacheConfig, CacheEntry, CachePlan, Residuals, Strategy};
pub use error::{ConfigError, Problem, count, nearest};
pub use forecast::{
    Forecast, ForecastConfig, ForecastTable, LastOutput, LastResidual, OutputConfig, ResidualConfig,
    forecast_table,
};
pub use guards::{Branches, Guards, Warmup};
pub use hook::{BlockHook, Cx, HookId, Next, Output, Probe, Reducer, Ring, Signal};
pub use keys::{Key, Keys, keys_of};
pub use log::{DecisionLog, Record, UnknownCause, Why};
pub use meta::{BlockMeta, ForecastInfo, Level, ModelMeta, ProfileInfo, StackMeta, StrategyInfo};
pub use module::{ModuleRings, Modules};
pub use plans::{Grounds, PlannedSchedule, Plans, Quality};
pub use profile::{Curve, Fit, Profile, Recommended, Sensitivity, Source};
pub use registry::{Builder, HookRegistry};
pub use session::{Pass, Session, no_signals};
pub use slots::{SlotKey, Slots};
pub use snapshot::{Field, Persist, Reader, Snapshot, SnapshotError, Writer};
pub use step::{Branch, Expert, Phase, Step, UnknownBranch};
pub use storage::{StoragePolicy, Stored};
pub use streams::{Role, Streams};
pub use trajectory::{Trajectory, steps_above};
pub use words::{Given, Words};

// Re-exported so that a plugin crate needs no versions of its own.
pub use inventory;
pub use schemars;
pub use typetag;
