//! `FlashAttention` 2 (arXiv 2307.08691) on NVIDIA GPUs, by the crate `candle-flash-attn`.

use candle_core::{DType, Device, Result, Tensor};
use magcache_checkpoint::compute_capability;

use super::{Attention, rows};
use crate::cuda::runs_on;

/// The head sizes with a kernel of their own. Others would be padded to the next one, by variants of the
/// kernels that `.cargo/config.toml` leaves out.
const HEAD_SIZES: [usize; 9] = [32, 64, 96, 128, 160, 192, 224, 256, 512];

/// The first compute capability with the instructions that the kernels consist of.
const OLDEST: (i32, i32) = (8, 0);

/// Whether the library computes this, on a GPU whose code is in this build.
pub(super) fn applies(device: &Device, dtype: DType, head_size: usize) -> bool {
    let half = matches!(dtype, DType::F16 | DType::BF16);
    half && HEAD_SIZES.contains(&head_size)
        && compute_capability(device).is_some_and(|card| card >= OLDEST && runs_on(card))
}

/// Queries, keys and values as for [`attention`](super::attention).
pub(super) fn forward(op: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (batch, _, channels) = q.dims3()?;
    let split = |x: &Tensor| rows(x)?.reshape((batch, (), op.heads, channels / op.heads));
    let attended = candle_flash_attn::flash_attn(&split(q)?, &split(k)?, &split(v)?, op.scale as f32, false)?;
    attended.reshape(q.shape())
}
