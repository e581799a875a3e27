//! Toy transformers and the conformance kit, for testing strategies and models in any crate.
//!
//! A strategy crate runs every rule in one line; a model crate checks that its blocks work with hooks:
//!
//! ```no_run
//! # use magcache_core::{Pass, testing};
//! # use candle_core::{Result, Tensor, bail};
//! # fn forward(_: &mut Pass<'_>) -> Result<Tensor> { bail!("your model") }
//! testing::conformance_of("interval");
//! testing::check_model(12, forward);
//! ```
//!
//! Everything here panics with the name of the broken rule and the place where it was broken.
#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    reason = "bit equality is checked on values, and a rule that is broken ends the test"
)]

mod conformance;
mod expect;
mod model;
mod resume;
mod retry;
mod rules;
mod spy;
mod state;
mod toy;

pub use crate::metrics::reads::total as reads;
pub use conformance::{Bench, conformance, conformance_of, toys};
pub use expect::{Ran, assert_decisions, run, run_pass, same_bits, transcript};
pub use model::{check_blocks_pure, check_model, check_modules, check_off_is_plain};
pub use resume::{check_resume, resumes};
pub use retry::{check_retry, retries};
pub use rules::{
    check_config, check_error_recovers, check_guarded_steps, check_isolation, check_learning, check_never,
    check_repeatable, check_reuse,
};
pub use spy::{Calls, Inexact, Spy, SpyForecast};
pub use state::check_state;
pub use toy::{BlockRun, Fault, Toy};
