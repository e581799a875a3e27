//! Identity of the loaded model that prepared something.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use magcache_core::hint;

/// Distinguishes what one loaded model prepared from what another did, such as the second expert of Wan 2.2.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelId(Arc<()>);

impl PartialEq for ModelId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl ModelId {
    /// Checks that this model prepared the text of `own` and that it holds `batch` prompts.
    pub(crate) fn check(&self, own: &Self, text: &Tensor, batch: usize, hint: &str) -> Result<()> {
        if self != own {
            return Err(hint::tensor_error("this text context was made by another model", hint));
        }
        let prompts = text.dim(0)?;
        if prompts != batch {
            bail!("the text context holds {prompts} prompts, the latents a batch of {batch}");
        }
        Ok(())
    }
}
