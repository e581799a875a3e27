//! Weights in flat shards: each rank holds a part of the bytes of every block.

use magcache_core::{Group, hint};

use super::LoadResult;
use crate::checkpoint::{CheckpointError, Flat, Weights};

/// This rank's shards of the blocks of a list.
#[derive(Debug)]
pub(super) struct Shards {
    group: Group,
    list: &'static str,
    blocks: Vec<(Flat, Vec<u8>)>,
}

impl Shards {
    /// Reads this rank's part of every block: as even a share of its bytes as there is.
    pub(super) fn of(weights: &Weights, list: &'static str, count: usize, group: Group) -> Self {
        let own = |i| {
            let flat = weights.pp(i).flat();
            let bytes = flat.read(group.own(flat.len()));
            (flat, bytes)
        };
        let blocks = (0..count).map(own).collect();
        Self { group, list, blocks }
    }

    /// The tensors of a block, from the shards of all ranks, which ask for it in the same order.
    ///
    /// # Errors
    /// Ranks that do not answer, or have files of other sizes.
    pub(super) fn block(&self, i: usize) -> LoadResult<Weights> {
        let Some((flat, own)) = self.blocks.get(i) else {
            return Err(candle_core::Error::msg(format!("block {i} of {}", self.blocks.len())).into());
        };
        let about = format!("the weights of {}.{i}", self.list);
        let all = self.group.gather(&about, own).map_err(|error| CheckpointError::from(hint::wrap(error)))?;
        let line = all.concat();
        if line.len() != flat.len() {
            let message = format!("{about}: {} bytes from all ranks, expected {}", line.len(), flat.len());
            return Err(candle_core::Error::msg(message).into());
        }
        Ok(flat.tensors(line))
    }
}
