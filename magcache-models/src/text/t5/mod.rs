//! The encoder of T5 v1.1 and of UMT5.

mod bias;
mod block;
mod config;
mod encoder;
mod file;
pub(crate) mod names;

pub use bias::RelativePositions;
pub use config::{T5Config, T5Variant};
pub use encoder::T5Encoder;
pub use file::{T5File, open_t5, open_t5_as};
