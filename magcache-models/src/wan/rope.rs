//! Rotary position embedding over (frame, row, column).

use std::collections::BTreeMap;

use candle_core::{Device, Result};

use super::WanConfig;
use crate::nn::RotaryTable;

/// Base of the geometric progression of frequencies.
const THETA: f64 = 10_000.0;

/// Angles per position for each of the three axes of a video.
///
/// Of a head's `d` channels, rows get `2 * (d / 6)`, columns as many and frames the rest: for 128, frames get
/// 44, rows and columns 42 each. Angles are computed in f64 and their cosines stored as f32, as in diffusers
/// (`WanRotaryPosEmbed`).
#[derive(Clone, Debug)]
pub struct WanRope {
    /// Frequencies of the pairs of channels of each axis: frames, rows, columns.
    frequencies: [Vec<f64>; 3],
    max_positions: usize,
}

impl WanRope {
    /// The frequencies for the head size of `config`.
    pub fn new(config: &WanConfig) -> Self {
        let side = 2 * (config.attention_head_dim / 6);
        let dims = [config.attention_head_dim - 2 * side, side, side];
        let frequencies = dims.map(|dim| {
            (0..dim / 2).map(|pair| THETA.powf(-((2 * pair) as f64) / dim as f64)).collect::<Vec<_>>()
        });
        Self { frequencies, max_positions: config.rope_max_seq_len }
    }

    /// The table for `grid` = frames, rows and columns after patching; tokens in that order, columns fastest.
    ///
    /// Fails if an axis is longer than `rope_max_seq_len`.
    pub fn table(&self, grid: [usize; 3], device: &Device) -> Result<RotaryTable> {
        let max = self.max_positions;
        if let Some(length) = grid.iter().find(|length| **length > max) {
            candle_core::bail!(
                "{length} positions on one axis of the grid {grid:?}, but `rope_max_seq_len` of the model is {max}"
            );
        }
        let [frames, rows, columns] = grid.map(|length| length as i32);
        let position = |frame, row| (0..columns).map(move |column| [frame, row, column]);
        self.table_at(
            (0..frames).flat_map(|frame| (0..rows).flat_map(move |row| position(frame, row))),
            device,
        )
    }

    /// The table of tokens at these positions (frame, row, column). Before the first frame, times are
    /// negative.
    pub fn table_at(
        &self,
        positions: impl Iterator<Item = [i32; 3]>,
        device: &Device,
    ) -> Result<RotaryTable> {
        let mut seen: [BTreeMap<i32, Axis>; 3] = Default::default();
        let (mut cos, mut sin, mut tokens) = (Vec::new(), Vec::new(), 0);
        for position in positions {
            for ((position, seen), frequencies) in position.into_iter().zip(&mut seen).zip(&self.frequencies)
            {
                let axis = seen.entry(position).or_insert_with(|| Axis::at(position, frequencies));
                cos.extend_from_slice(&axis.cos);
                sin.extend_from_slice(&axis.sin);
            }
            tokens += 1;
        }
        RotaryTable::new(cos, &sin, tokens, device)
    }
}

/// One position's angles on one axis.
struct Axis {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Axis {
    fn at(position: i32, frequencies: &[f64]) -> Self {
        let angles = frequencies.iter().map(|frequency| f64::from(position) * frequency);
        let (cos, sin) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        Self { cos, sin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_the_head_as_published_and_orders_tokens_by_frame_row_column() -> Result<()> {
        let rope = WanRope::new(&WanConfig::default());
        assert_eq!(rope.frequencies.each_ref().map(Vec::len), [22, 21, 21]);
        let cos = rope.table([2, 3, 5], &Device::Cpu)?.cos()?;
        assert_eq!(cos.dims(), [30, 64]);
        // The first pair of each axis rotates by one radian per position.
        let token = 15 + 2 * 5 + 4;
        for (pair, position) in [(0, 1f32), (22, 2.0), (43, 4.0)] {
            let value = cos.get(token)?.get(pair)?.to_scalar::<f32>()?;
            assert!((value - position.cos()).abs() < 1e-6, "pair {pair}: {value}");
        }
        Ok(())
    }

    #[test]
    fn refuses_a_grid_longer_than_the_model_was_made_for() {
        let rope = WanRope::new(&WanConfig { rope_max_seq_len: 8, ..WanConfig::default() });
        let message =
            rope.table([1, 9, 2], &Device::Cpu).expect_err("nine rows of at most eight").to_string();
        assert!(message.contains("9 positions") && message.contains("[1, 9, 2]"), "{message}");
    }
}
