//! The part of the conditioning that stays the same over a whole generation.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use candle_core::{Result, Tensor};

use super::attention::{CrossAttention, KeysValues};
use crate::{model_id::ModelId, pipeline::TextUses};

/// A prompt as the blocks of one model see it: projected embeddings and, block by block, their keys and
/// values.
///
/// Created once per prompt by [`WanTransformer::text_context`](super::WanTransformer::text_context) and used
/// at every step; the keys and values of a block are computed when the block first runs, so a block that is
/// always skipped costs nothing. All of them take `2 * blocks * batch * tokens * inner` floats: 180 MiB for
/// 512 tokens in Wan 2.1 1.3B, and 800 MiB in a 14B expert. diffusers recomputes them at every step; the
/// values are the same.
///
/// It can be shared between threads. Cloning copies handles, not data.
#[derive(Clone, Debug)]
pub struct TextContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    model: ModelId,
    text: Tensor,
    image: Option<Tensor>,
    keys_values: Vec<OnceLock<KeysValues>>,
    /// How often they were reused.
    reused: AtomicUsize,
}

impl TextContext {
    /// From embeddings that are already projected, `[batch, tokens, inner]`.
    pub(super) fn new(model: ModelId, text: Tensor, image: Option<Tensor>, blocks: usize) -> Self {
        let keys_values = std::iter::repeat_with(OnceLock::new).take(blocks).collect();
        let reused = AtomicUsize::new(0);
        Self(Arc::new(Inner { model, text, image, keys_values, reused }))
    }

    /// Projected text, `[batch, tokens, inner]`.
    pub fn text(&self) -> &Tensor {
        &self.0.text
    }

    /// Projected image embeddings, `[batch, tokens, inner]`, in models that attend to them.
    pub fn image(&self) -> Option<&Tensor> {
        self.0.image.as_ref()
    }

    /// Bytes held: the projected embeddings, and the keys and values computed so far.
    pub fn bytes(&self) -> usize {
        let inner = &*self.0;
        let ready = inner.keys_values.iter().filter_map(OnceLock::get).flat_map(KeysValues::tensors);
        let tensors = std::iter::once(&inner.text).chain(&inner.image).chain(ready);
        tensors.map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }

    /// How often the keys and values of a block were computed, and how often they were reused.
    pub fn uses(&self) -> TextUses {
        let computed = self.0.keys_values.iter().filter(|cell| cell.get().is_some()).count();
        TextUses { computed, reused: self.0.reused.load(Ordering::Relaxed) }
    }

    /// Checks that `model` created this context and that it holds `batch` prompts.
    pub(super) fn check(&self, model: &ModelId, batch: usize) -> Result<()> {
        model.check(&self.0.model, &self.0.text, batch, "each expert needs its own")
    }

    /// Keys and values for block `block`, computed on first use.
    pub(super) fn keys_values(&self, block: usize, attention: &CrossAttention) -> Result<&KeysValues> {
        let Some(cell) = self.0.keys_values.get(block) else {
            candle_core::bail!("block {block} of {} in this text context", self.0.keys_values.len())
        };
        if let Some(ready) = cell.get() {
            self.0.reused.fetch_add(1, Ordering::Relaxed);
            return Ok(ready);
        }
        // Two threads that arrive together compute the same values; the first to finish is kept.
        let computed = attention.keys_values(&self.0.text, self.0.image.as_ref())?;
        Ok(cell.get_or_init(|| computed))
    }
}
