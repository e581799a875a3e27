//! With whole rows of scores, as the formula is written: some queries at a time.

use candle_core::{DType, Result, Tensor};

use super::Attention;

/// Maximum scores that exist at a time, 1 GiB in f32.
const SCORES: usize = 1 << 28;

impl Attention {
    /// In the type of the queries, but for the sums of the softmax, which are f32: exact where that type is
    /// f32.
    pub(super) fn in_cuts(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (batch, tokens, channels) = q.dims3()?;
        let (keys, dtype) = (k.dim(1)?, q.dtype());
        let split = |x: &Tensor| {
            x.reshape((batch, (), self.heads, channels / self.heads))?.transpose(1, 2)?.contiguous()
        };
        let (q, k, v) = ((split(q)? * self.scale)?, split(k)?.t()?, split(v)?);
        let cut = (SCORES / (batch * self.heads * keys).max(1)).clamp(1, tokens.max(1));
        let mut parts = Vec::with_capacity(tokens.div_ceil(cut));
        for start in (0..tokens).step_by(cut) {
            let length = cut.min(tokens - start);
            let mut scores = q.narrow(2, start, length)?.matmul(&k)?;
            if let Some(bias) = &self.bias {
                scores = (scores + bias.narrow(2, start, length)?.to_dtype(dtype)?)?;
            }
            parts.push(softmax(&scores)?.matmul(&v)?);
        }
        Tensor::cat(&parts, 2)?.transpose(1, 2)?.reshape((batch, tokens, channels))
    }
}

/// Over the last axis, with sums in f32: in half precision, a sum of many weights would lose the small ones.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    // candle's kernel for NVIDIA GPUs adds up in f32 whatever the type is; the others do not.
    if scores.device().is_cuda() {
        return candle_nn::ops::softmax_last_dim(scores);
    }
    candle_nn::ops::softmax_last_dim(&scores.to_dtype(DType::F32)?)?.to_dtype(scores.dtype())
}
