//! Blocks of multimodal diffusion transformers: text and image in two streams that attend to each other, then
//! in one.
//!
//! [`dual::DualBlock`] has weights for each stream, [`single::SingleBlock`] works on one sequence of both;
//! prompts and the positions of tokens are prepared once, in [`PromptContext`] and [`JointPositions`].

pub(crate) mod attention;
mod context;
pub(crate) mod dual;
pub(crate) mod embed;
pub(crate) mod feed_forward;
pub(crate) mod head;
pub(crate) mod modulation;
mod positions;
pub(crate) mod single;

pub use context::PromptContext;
pub(crate) use positions::check_axes;
pub use positions::{AxesRope, JointPositions};

/// Result of loading a part of a network.
pub(crate) type LoadResult<T> = std::result::Result<T, crate::checkpoint::CheckpointError>;

/// The part of a block that caches can surround, as the checkpoints call it: it returns both streams, in one
/// sequence in single-stream blocks.
pub(crate) const ATTENTION: &str = "attn";
