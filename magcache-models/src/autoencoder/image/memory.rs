//! How much memory decoding an image takes.
//!
//! Follows the network as it runs and keeps the largest set of tensors that are alive at once.

use super::ImageVaeConfig;
use crate::autoencoder::{error::Result, tiling::Tiling};

/// Bytes of an f32.
const F32: f64 = 4.0;

/// What the allocator holds back of freed memory comes on top: 7 % were measured with glibc.
const HELD_BACK: f64 = 1.1;

/// Tensors of the attention at the lowest resolution: input, normed, queries, keys, values, result, and the
/// copies that order them.
const ATTENTION: f64 = 9.0;

impl ImageVaeConfig {
    /// The memory, in bytes, that decoding an image of `width` by `height` pixels takes in addition to the
    /// weights; with tiles, the picture and two bands of it included.
    ///
    /// # Errors
    /// Tiles that this autoencoder does not support.
    pub fn decode_memory(&self, width: usize, height: usize, tiling: Option<Tiling>) -> Result<u64> {
        let scale = self.spatial_scale();
        let latents = [height / scale, width / scale];
        let pixels = |[rows, columns]: [usize; 2]| (rows * scale) as f64 * (columns * scale) as f64;
        let picture = pixels(latents) * self.out_channels as f64;
        let grid = tiling.map(|tiling| tiling.grid(scale, scale, latents)).transpose()?.flatten();
        let values = match grid {
            None => self.decoding(pixels(latents)) + 2.0 * picture,
            Some(grid) => {
                let tile = [grid.rows.tile.min(grid.rows.length), grid.columns.tile.min(grid.columns.length)];
                self.decoding(pixels(tile)) + 3.0 * picture
            }
        };
        Ok((F32 * HELD_BACK * values) as u64)
    }

    /// Values alive at most while a part of so many pixels is decoded.
    fn decoding(&self, pixels: f64) -> f64 {
        let levels = self.decoder_channels();
        let lowest = levels.last().copied().unwrap_or_default() as f64;
        let coarsest = pixels / (self.spatial_scale() as f64).powi(2);
        // The largest kernel, widened and laid out for a product.
        let widest = levels.iter().max().copied().unwrap_or_default() as f64;
        let kernel = 2.0 * 9.0 * widest * widest;
        let (mut peak, mut inputs, mut area) = (coarsest * lowest * ATTENTION, lowest, coarsest);
        for (i, outputs) in levels.iter().rev().enumerate() {
            let outputs = *outputs as f64;
            // The input and what is normed of it until the first convolution is done; later the input, the
            // second convolution, the shortcut and the sum of both.
            let residual = (2.0 * inputs + outputs).max(inputs + 3.0 * outputs);
            peak = f64::max(peak, area * residual);
            if i + 1 < levels.len() {
                // The doubled image and its convolution.
                peak = f64::max(peak, 2.0 * 4.0 * area * outputs);
                area *= 4.0;
            }
            inputs = outputs;
        }
        peak + kernel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_resolution_decides_and_tiles_bound_it() {
        let config = ImageVaeConfig::flux1();
        let bytes = |side, tiling| config.decode_memory(side, side, tiling).expect("is valid") as f64;
        // 256 channels before the last blocks, 3 tensors of 128, and the picture twice; and a kernel.
        let expected = 1.1 * 4.0 * (1024.0 * 1024.0 * (256.0 + 3.0 * 128.0 + 6.0) + 18.0 * 512.0 * 512.0);
        assert!((bytes(1024, None) / expected - 1.0).abs() < 0.01, "{}", bytes(1024, None) / expected);
        let tiles = Some(Tiling::default());
        assert!(bytes(1024, tiles) < bytes(1024, None) / 8.0);
        assert!((bytes(256, tiles) - bytes(256, None)).abs() < f64::EPSILON, "no larger than a tile");
        assert!(config.decode_memory(1024, 1024, Some(Tiling::square(100, 50))).is_err());
    }
}
