//! How much memory decoding takes.
//!
//! Follows the network as it runs and adds up the tensors that are alive at each step; see the module
//! documentation of [`vae`](super) for the result in a formula.

use super::{VideoVaeConfig, levels::UpLevel};
use crate::autoencoder::{
    error::Result,
    tiling::{Axis, Grid, Tiling},
};

/// Bytes of an f32.
const F32: f64 = 4.0;

/// Frames that a causal convolution keeps.
const LOOK_BACK: f64 = 2.0;

/// Taps of a kernel along an axis.
const KERNEL: usize = 3;

/// How [`Conv3d`](crate::nn::Conv3d) divides its work: pixels per task, and values under a row of the kernel
/// from which on pixels are not gathered.
const TASK_PIXELS: usize = 512;
const NARROW: usize = 128;

/// An upper bound of the memory, in bytes, that decoding a video of batch 1 takes in addition to the weights.
/// Freed memory that the allocator holds back comes on top; with glibc's defaults that can be a tenth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeMemory {
    /// What the stream remembers between latent frames; independent of the length of the video.
    pub feature_cache: u64,
    /// The largest set of tensors alive at once while one latent frame is decoded, including the largest
    /// weight widened to f32.
    pub activations: u64,
    /// Finished frames and edges of tiles. 0 without tiles, where frames are returned as they are decoded.
    pub frames: u64,
    /// Windows of the convolutions, per thread.
    pub per_thread: u64,
}

impl DecodeMemory {
    /// The total with this many threads.
    pub fn total(&self, threads: usize) -> u64 {
        let scratch = self.per_thread.saturating_mul(threads as u64);
        [self.activations, self.frames, scratch].into_iter().fold(self.feature_cache, u64::saturating_add)
    }
}

impl VideoVaeConfig {
    /// Bounds the memory of decoding a video of `width` by `height` pixels and `frames` frames.
    ///
    /// Without tiles it is that of [`VideoVae::decode_stream`](super::VideoVae::decode_stream), which does
    /// not depend on `frames`; with tiles that of [`VideoVae::decode`](super::VideoVae::decode), the video
    /// included.
    ///
    /// # Errors
    /// Tiles that this autoencoder does not support.
    pub fn decode_memory(
        &self,
        width: usize,
        height: usize,
        frames: usize,
        tiling: Option<Tiling>,
    ) -> Result<DecodeMemory> {
        let scale = self.spatial_scale();
        let latents = [height / scale, width / scale];
        let grid = tiling.map(|tiling| tiling.grid(scale, scale, latents)).transpose()?.flatten();
        let Some(grid) = grid else { return Ok(Walk::decoder(self, latents).memory(0.0, 0.0)) };
        let tile = [grid.rows.tile.min(grid.rows.length), grid.columns.tile.min(grid.columns.length)];
        let (kept, finishing) = self.kept_with_tiles(&grid, frames);
        Ok(Walk::decoder(self, tile).memory(kept, finishing))
    }

    /// Upper bounds, in values, of what tiles leave behind and of what finishing a band takes while no tile
    /// is processed.
    fn kept_with_tiles(&self, grid: &Grid, frames: usize) -> (f64, f64) {
        let unit = self.network_scale() as f64;
        let pixels = |axis: &Axis, latents: usize| unit * latents.min(axis.length) as f64;
        let (rows, columns) = (&grid.rows, &grid.columns);
        let depth = frames as f64 * self.out_channels as f64;
        let video = depth * pixels(rows, rows.length) * pixels(columns, columns.length);
        let band = depth * pixels(rows, rows.stride) * pixels(columns, columns.length);
        // Lowest rows of all tiles above and of this one.
        let tiles = columns.length.div_ceil(columns.stride.max(1)) as f64 + 1.0;
        let above = depth * pixels(rows, rows.overlap()) * tiles * pixels(columns, columns.tile);
        // Last columns of the tile to the left and of this one.
        let left = 2.0 * depth * pixels(rows, rows.tile) * pixels(columns, columns.overlap());
        // The chunks of this tile, then the whole tile.
        let tile = 2.0 * depth * pixels(rows, rows.stride) * pixels(columns, columns.stride);
        (video + band + above + left + tile, 3.0 * band)
    }
}

/// Sums and maxima while following the network, in values.
#[derive(Default)]
struct Walk {
    cache: f64,
    peak: f64,
    weight: f64,
    per_thread: f64,
}

/// A resolution: frames per chunk, rows, columns.
#[derive(Clone, Copy)]
struct Grain {
    frames: f64,
    height: usize,
    width: usize,
}

impl Grain {
    /// Values of a tensor with this many channels.
    fn of(&self, channels: usize) -> f64 {
        self.frames * self.frame(channels)
    }

    /// Values of one of the tensor's frames.
    fn frame(&self, channels: usize) -> f64 {
        self.height as f64 * self.width as f64 * channels as f64
    }
}

impl Walk {
    /// A chunk after the first: one latent frame.
    fn decoder(config: &VideoVaeConfig, [height, width]: [usize; 2]) -> Self {
        let mut walk = Self::default();
        let mut grain = Grain { frames: 1.0, height, width };
        let levels = config.up_levels();
        let lowest = levels.first().map_or(config.decoder_dim(), |level| level.inputs);
        walk.convolution(grain, config.z_dim, lowest, grain.of(config.z_dim));
        // The middle: two residual blocks around attention, whose projections are five tensors of the input's
        // size.
        let x = grain.of(lowest);
        walk.residual(grain, lowest, lowest, x);
        walk.alive(9.0 * x);
        walk.residual(grain, lowest, lowest, x);
        for level in &levels {
            grain = walk.level(config, level, grain);
        }
        let highest = levels.last().map_or(lowest, |level| level.outputs);
        walk.convolution(grain, highest, config.out_channels, 0.0);
        walk.alive(4.0 * grain.of(config.out_channels));
        walk
    }

    /// A level of the decoder and the step after it; returns the resolution after the step.
    fn level(&mut self, config: &VideoVaeConfig, level: &UpLevel, grain: Grain) -> Grain {
        let around = if level.shortcut.is_some() { grain.of(level.inputs) } else { 0.0 };
        for i in 0..=config.num_res_blocks {
            let inputs = if i == 0 { level.inputs } else { level.outputs };
            self.residual(grain, inputs, level.outputs, around);
        }
        let Some(step) = level.step else { return grain };
        let (mut finer, channels) = (grain, level.outputs);
        let held = around + grain.of(channels);
        if step.time {
            finer.frames *= 2.0;
            self.cache += LOOK_BACK * grain.frame(channels);
            self.weight = self.weight.max((KERNEL * channels * 2 * channels) as f64);
            self.alive(held + grain.of(channels) + LOOK_BACK * grain.frame(channels) + finer.of(channels));
            self.alive(held + 2.0 * finer.of(channels));
        }
        let coarse = finer.of(channels);
        finer = Grain { height: 2 * grain.height, width: 2 * grain.width, ..finer };
        self.alive(held + coarse + finer.of(channels));
        self.scratch(finer, 1, channels, step.outputs);
        self.alive(held + finer.of(channels) + finer.of(step.outputs));
        finer
    }

    fn residual(&mut self, grain: Grain, inputs: usize, outputs: usize, held: f64) {
        let held = held + grain.of(inputs);
        self.convolution(grain, inputs, outputs, held);
        self.alive(held + 2.0 * grain.of(outputs));
        self.convolution(grain, outputs, outputs, held);
        let copies = if inputs == outputs { 2.0 } else { 3.0 };
        self.alive(held + copies * grain.of(outputs));
    }

    /// A causal convolution of a tensor created for it, while `held` other values are alive.
    fn convolution(&mut self, grain: Grain, inputs: usize, outputs: usize, held: f64) {
        let before = LOOK_BACK * grain.frame(inputs);
        self.cache += before;
        self.weight = self.weight.max((KERNEL.pow(3) * inputs * outputs) as f64);
        self.alive(held + 2.0 * grain.of(inputs) + before + grain.of(outputs));
        self.scratch(grain, KERNEL, inputs, outputs);
    }

    /// The private memory of one task of a convolution with a kernel of `taps` frames.
    fn scratch(&mut self, grain: Grain, taps: usize, inputs: usize, outputs: usize) {
        let lines = (TASK_PIXELS / grain.width.max(1)).clamp(1, grain.height.max(1));
        let values = |rows: usize, channels: usize| (rows * channels) as f64 * (grain.width as f64 + 2.0);
        let window = values(taps * (lines + KERNEL - 1), inputs);
        // If the window is narrow, all pixels under the kernel are gathered instead.
        let narrow = KERNEL * inputs < NARROW;
        let gathered = if narrow { values(taps * KERNEL * KERNEL * lines, inputs) } else { 0.0 };
        self.per_thread = self.per_thread.max(window.max(gathered) + values(2 * lines, outputs));
    }

    fn alive(&mut self, values: f64) {
        self.peak = self.peak.max(values);
    }

    /// `kept`: values of finished frames; `finishing`: values alive while no chunk is processed.
    fn memory(&self, kept: f64, finishing: f64) -> DecodeMemory {
        let bytes = |values: f64| (F32 * values) as u64;
        DecodeMemory {
            feature_cache: bytes(self.cache),
            activations: bytes((self.peak + self.weight).max(finishing)),
            frames: bytes(kept),
            per_thread: bytes(self.per_thread),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the documentation of the module, in units of 100 MB.
    #[test]
    fn the_documented_numbers_are_those_of_the_published_configurations() {
        let wan22 = VideoVaeConfig::from_json(&format!(
            r#"{{"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": true, "in_channels": 12,
            "out_channels": 12, "patch_size": 2, "latents_mean": {:?}, "latents_std": {:?}}}"#,
            [0f32; 48], [1f32; 48]
        ))
        .expect("is valid");
        let table =
            [(VideoVaeConfig::default(), [87, 64, 0], [6, 11, 20]), (wan22, [66, 77, 0], [5, 11, 20])];
        for (config, whole, tiles) in table {
            for (tiling, expected) in [(None, whole), (Some(Tiling::default()), tiles)] {
                let memory = config.decode_memory(1280, 720, 121, tiling).expect("is valid");
                let units = [memory.feature_cache, memory.activations, memory.frames]
                    .map(|b| (b + 50_000_000) / 100_000_000);
                assert_eq!(units, expected, "{memory:?}");
                assert!(memory.per_thread < 20_000_000);
            }
        }
    }

    #[test]
    fn frames_count_only_where_they_are_kept() {
        let config = VideoVaeConfig::default();
        let total =
            |frames, tiling| config.decode_memory(832, 480, frames, tiling).expect("is valid").total(2);
        assert_eq!(total(5, None), total(81, None));
        let tiles = Some(Tiling::default());
        assert!(total(81, tiles) > total(5, tiles) && total(81, tiles) < total(81, None) / 3);
        assert_eq!(total(5, Some(Tiling::square(1024, 512))), total(5, None));
        let error =
            config.decode_memory(832, 480, 5, Some(Tiling::square(100, 50))).expect_err("no multiple");
        assert!(error.to_string().contains("tile_height = 100"));
        assert!(
            config.decode_memory(usize::MAX, usize::MAX, usize::MAX, None).expect("is a number").total(9) > 0
        );
    }
}
