//! Relative positions of T5.

use candle_core::{Device, Result, Tensor};

use super::T5Config;
use crate::checkpoint::{CheckpointError, Weights};

/// Maps the distance between two tokens to a row of a relative position table.
///
/// Half of the rows are for keys after the query. In each half, the first half of the rows stand for single
/// distances, the others for ranges that grow logarithmically, up to `max_distance` and beyond (T5, arXiv
/// 1910.10683, section 2.1).
#[derive(Clone, Copy, Debug)]
pub struct RelativePositions {
    buckets: usize,
    max_distance: usize,
}

impl RelativePositions {
    /// The scheme of a configuration.
    pub fn new(config: &T5Config) -> Self {
        Self {
            buckets: config.relative_attention_num_buckets,
            max_distance: config.relative_attention_max_distance,
        }
    }

    /// The table's row for a key that is `offset` tokens after the query, or before it if negative.
    ///
    /// The logarithm is taken in f32 and truncated, as in transformers: in f64 some rows would start at other
    /// distances.
    pub fn bucket(&self, offset: i64) -> u32 {
        let side = self.buckets / 2;
        let single = side / 2;
        let first = if offset > 0 { side } else { 0 };
        let distance = offset.unsigned_abs() as usize;
        let row = if distance < single {
            distance
        } else {
            let span = (self.max_distance as f64 / single as f64).ln() as f32;
            let position = (distance as f32 / single as f32).ln() / span * (side - single) as f32;
            (single + position as usize).min(side - 1)
        };
        (first + row) as u32
    }

    /// Rows for every offset between two of `length` tokens, from `1 - length` to `length - 1`: u32
    /// `[2 * length - 1]`.
    pub(super) fn buckets(&self, length: usize, device: &Device) -> Result<Tensor> {
        let length = length as i64;
        Tensor::from_iter((1 - length..length).map(|offset| self.bucket(offset)), device)
    }
}

/// A table `relative_attention_bias` `[buckets, heads]`, in f32.
#[derive(Clone, Debug)]
pub(super) struct BiasTable(Tensor);

impl BiasTable {
    pub(super) fn load(weights: &Weights, config: &T5Config) -> std::result::Result<Self, CheckpointError> {
        let shape = [config.relative_attention_num_buckets, config.num_heads];
        Ok(Self(weights.pp("relative_attention_bias").get_f32("weight", &shape)?))
    }

    /// `[1, heads, length, length]` from [`RelativePositions::buckets`].
    pub(super) fn bias(&self, buckets: &Tensor, length: usize) -> Result<Tensor> {
        let by_offset = self.0.index_select(buckets, 0)?.t()?.contiguous()?;
        // Each query's row is the previous one, shifted by one.
        let row = |query: usize| by_offset.narrow(1, length - 1 - query, length);
        Tensor::stack(&(0..length).map(row).collect::<Result<Vec<_>>>()?, 1)?.unsqueeze(0)
    }
}
