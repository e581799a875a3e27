//! The text encoder: each byte of the prompt is a token.

use candle_core::{DType, Device, Result, Tensor};
use magcache_models::{checkpoint::Weights, pipeline};

use crate::HIDDEN;

/// A row for every byte.
#[derive(Debug)]
pub(crate) struct TextEncoder(Tensor);

impl TextEncoder {
    /// The most tokens that are read.
    pub(crate) const LENGTH: usize = 64;

    pub(crate) fn load(weights: &Weights) -> pipeline::Result<Self> {
        Ok(Self(weights.get("embedding.weight", &[256, HIDDEN])?))
    }

    /// `[1, tokens, 16]`; and how many bytes were cut.
    pub(crate) fn encode(&self, prompt: &str) -> Result<(Tensor, usize)> {
        let mut bytes: Vec<u32> = prompt.bytes().map(u32::from).collect();
        let cut = bytes.len().saturating_sub(Self::LENGTH);
        bytes.resize(Self::LENGTH, 0);
        let rows = Tensor::new(bytes, &Device::Cpu)?.to_dtype(DType::U32)?.to_device(self.0.device())?;
        Ok((self.0.index_select(&rows, 0)?.unsqueeze(0)?, cut))
    }
}
