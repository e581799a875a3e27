//! The part of the conditioning that stays the same over a whole generation.

use candle_core::{Result, Tensor};

use crate::model_id::ModelId;

/// A prompt as one model sees it: text embeddings in the width of the blocks and, in FLUX.1, the embedded
/// pooled text.
///
/// Created once per prompt by the model's `text_context` and used at every step. The text stream changes from
/// block to block and from step to step, so unlike in Wan there are no keys and values to keep. Cloning
/// copies handles, not data.
#[derive(Clone, Debug)]
pub struct PromptContext {
    model: ModelId,
    text: Tensor,
    pooled: Option<Tensor>,
}

impl PromptContext {
    pub(crate) fn new(model: ModelId, text: Tensor, pooled: Option<Tensor>) -> Self {
        Self { model, text, pooled }
    }

    /// Projected text, `[batch, tokens, inner]`.
    pub fn text(&self) -> &Tensor {
        &self.text
    }

    /// Embedded pooled text, `[batch, inner]`, in FLUX.1.
    pub fn pooled(&self) -> Option<&Tensor> {
        self.pooled.as_ref()
    }

    /// Checks that `model` created this context and that it holds `batch` prompts.
    pub(crate) fn check(&self, model: &ModelId, batch: usize) -> Result<()> {
        model.check(&self.model, &self.text, batch, "each needs its own")
    }
}
