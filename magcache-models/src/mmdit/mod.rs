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
pub(crate) use positions::{IMAGE, TEXT};

/// Result of loading a part of a network.
pub(crate) type LoadResult<T> = std::result::Result<T, crate::checkpoint::CheckpointError>;

/// The two published forms of the blocks, by their activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Biases everywhere, GELU, a modulation of its own in every block.
    Gelu,
    /// No biases, `SwiGLU`, one modulation for all blocks of a stack, and one input projection for
    /// attention and feed-forward in single-stream blocks.
    SwiGlu,
}

/// What all blocks of a model have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSizes {
    pub(crate) form: Form,
    /// Attention heads.
    pub(crate) heads: usize,
    /// Channels of each.
    pub(crate) head_dim: usize,
    /// Hidden channels of the feed-forward layers.
    pub(crate) hidden: usize,
    /// Epsilon of every norm.
    pub(crate) eps: f64,
}

impl BlockSizes {
    /// Channels of the hidden states.
    pub(crate) fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Whether linear layers have biases.
    pub(crate) fn bias(&self) -> bool {
        self.form == Form::Gelu
    }
}

/// The part of a block that caches can surround, as the checkpoints call it: it returns both streams, in one
/// sequence in single-stream blocks.
pub(crate) const ATTENTION: &str = "attn";
