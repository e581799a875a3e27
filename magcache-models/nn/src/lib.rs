//! Layers shared by the models.
//!
//! Hidden states are `[batch, tokens, channels]` and videos inside a network
//! `[batch, frames, height, width, channels]`. On the CPU in f32, and on NVIDIA GPUs, kernels replace the
//! slow spots of candle's own operations; on other devices, and in other types, every function falls back to
//! candle's operations, against which the tests check the kernels.

mod activation;
mod attention;
mod channel_norm;
mod conv1d;
mod conv3d;
mod cpu;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
mod feed_forward;
mod fold;
mod group_norm;
mod joined;
mod linear;
mod matmul;
mod modulation;
mod norm;
mod patches;
mod rotary;
mod row_op;
mod share;
mod sinusoids;
#[cfg(test)]
mod testing;
mod then;
mod upsample;
mod weight;

pub use activation::{gelu_erf, gelu_tanh, silu, swiglu};
pub use attention::{AttentionMethod, attention, attention_by, attention_with_bias};
pub use channel_norm::ChannelNorm;
pub use conv1d::{Conv1d, Conv1dConfig};
pub use conv3d::{Conv3d, Conv3dConfig};
pub use feed_forward::feed_forward;
pub use fold::{AvgDown, DupUp, Fold};
pub use group_norm::GroupNorm;
pub use joined::JoinedLinear;
pub use linear::Linear;
pub use modulation::{add, gated_add, layer_norm_modulate};
pub use norm::{LayerNorm, RmsNorm};
pub use patches::{patchify, unpatchify};
pub use rotary::{RotaryTable, rms_norm_rotary};
pub use share::in_parallel;
pub use sinusoids::Sinusoids;
pub use upsample::nearest;
