//! Tiles of frames and images that are too large to encode or decode in one piece: where they lie, and how
//! they are blended.

mod mosaic;

use candle_core::Tensor;

pub(crate) use self::mosaic::assemble;

/// A tile or stride that an autoencoder does not support.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {got} is not valid: expected {expected}")]
pub struct TilingError {
    /// The field of [`Tiling`].
    pub key: &'static str,
    /// Its value.
    pub got: usize,
    /// The accepted values.
    pub expected: String,
}

/// Cuts frames into overlapping tiles, each a stream of its own, and blends them: less memory for more work,
/// and not exactly what the whole frame would give, because no tile sees past its edges.
///
/// Sizes are pixels of the decoded video or image and multiples of the spatial scale of the autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of a tile.
    pub tile_height: usize,
    /// Columns of a tile.
    pub tile_width: usize,
    /// Rows from one tile to the next; the rest of the tile is blended.
    pub stride_height: usize,
    /// Columns from one tile to the next.
    pub stride_width: usize,
}

impl Default for Tiling {
    /// Tiles of 256 pixels every 192, as in the reference.
    fn default() -> Self {
        Self::square(256, 192)
    }
}

impl Tiling {
    /// Square tiles.
    pub fn square(tile: usize, stride: usize) -> Self {
        Self { tile_height: tile, tile_width: tile, stride_height: stride, stride_width: stride }
    }

    /// The tiles of a picture of `height` by `width` latents; `None` if it is no larger than one.
    ///
    /// `scale`: pixels per latent. `unit`: pixels per latent within a tile, where that differs from the
    /// picture's.
    pub(crate) fn grid(
        &self,
        scale: usize,
        unit: usize,
        [height, width]: [usize; 2],
    ) -> Result<Option<Grid>, TilingError> {
        let fields = [
            ("tile_height", self.tile_height, "stride_height", self.stride_height),
            ("tile_width", self.tile_width, "stride_width", self.stride_width),
        ];
        for (tile_key, tile, stride_key, stride) in fields {
            for (key, got) in [(tile_key, tile), (stride_key, stride)] {
                if got == 0 || !got.is_multiple_of(scale) {
                    let expected = format!("a multiple of {scale}, the pixels of a latent");
                    return Err(TilingError { key, got, expected });
                }
            }
            if stride > tile {
                let expected = format!("at most {tile_key} = {tile}, or rows and columns would be missing");
                return Err(TilingError { key: stride_key, got: stride, expected });
            }
        }
        if height * scale <= self.tile_height && width * scale <= self.tile_width {
            return Ok(None);
        }
        let axis =
            |tile: usize, stride: usize, length| Axis { tile: tile / unit, stride: stride / unit, length };
        Ok(Some(Grid {
            rows: axis(self.tile_height, self.stride_height, height),
            columns: axis(self.tile_width, self.stride_width, width),
        }))
    }
}

/// Tiles of a picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) rows: Axis,
    pub(crate) columns: Axis,
}

/// Tiles along one axis, in latents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    pub(crate) tile: usize,
    pub(crate) stride: usize,
    pub(crate) length: usize,
}

/// Latents that a tile covers along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) length: usize,
}

impl Axis {
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> {
        let Self { tile, stride, length } = *self;
        (0..length).step_by(stride.max(1)).map(move |start| Span { start, length: tile.min(length - start) })
    }

    /// Latents that neighbours share.
    pub(crate) fn overlap(&self) -> usize {
        self.tile - self.stride
    }
}

/// Blends what the previous tile saved of a chunk with this tile's chunk over the overlap along `axis`, which
/// begins with the previous tile alone.
pub(crate) fn blend(
    before: &Tensor,
    tile: &Tensor,
    axis: usize,
    overlap: usize,
) -> candle_core::Result<Tensor> {
    let extent = overlap.min(before.dim(axis)?).min(tile.dim(axis)?);
    if extent == 0 {
        return Ok(tile.clone());
    }
    let mut shape = vec![1; tile.rank()];
    if let Some(length) = shape.get_mut(axis) {
        *length = extent;
    }
    let weights = |of: fn(f64) -> f64| {
        let weights: Vec<f32> = (0..extent).map(|i| of(i as f64 / extent as f64) as f32).collect();
        Tensor::from_vec(weights, shape.as_slice(), tile.device())
    };
    let before = before.narrow(axis, before.dim(axis)? - extent, extent)?;
    let mixed = (before.broadcast_mul(&weights(|x| 1.0 - x)?)?
        + tile.narrow(axis, 0, extent)?.broadcast_mul(&weights(|x| x)?)?)?;
    let rest = tile.dim(axis)? - extent;
    if rest == 0 { Ok(mixed) } else { Tensor::cat(&[&mixed, &tile.narrow(axis, extent, rest)?], axis) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn tiles_cover_every_latent_and_crops_meet() {
        for (tile, stride, length) in [(4, 3, 7), (4, 3, 5), (2, 1, 3), (5, 5, 11), (4, 2, 4), (9, 1, 2)] {
            let axis = Axis { tile, stride, length };
            let spans: Vec<Span> = axis.spans().collect();
            assert!(spans.iter().all(|s| s.length > 0 && s.start + s.length <= length));
            let cropped: usize = spans.iter().map(|s| s.length.min(stride)).sum();
            assert_eq!(cropped, length, "{axis:?}");
        }
    }

    #[test]
    fn blending_goes_from_the_previous_tile_to_this_one() -> candle_core::Result<()> {
        let tensor = |value: f32, n: usize| Tensor::full(value, (1, 1, 1, 1, n), &Device::Cpu);
        let row = |x: Tensor| x.flatten_all()?.to_vec1::<f32>();
        assert_eq!(row(blend(&tensor(8.0, 4)?, &tensor(0.0, 6)?, 4, 4)?)?, [8.0, 6.0, 4.0, 2.0, 0.0, 0.0]);
        assert_eq!(row(blend(&tensor(8.0, 4)?, &tensor(0.0, 2)?, 4, 4)?)?, [8.0, 4.0]);
        assert_eq!(row(blend(&tensor(8.0, 4)?, &tensor(1.0, 2)?, 4, 0)?)?, [1.0, 1.0]);
        Ok(())
    }

    #[test]
    fn sizes_that_leave_gaps_or_cut_latents_are_refused() {
        let grid = |tiling: Tiling, size| tiling.grid(8, 8, size);
        let error =
            |tile, stride| grid(Tiling::square(tile, stride), [9, 9]).expect_err("no tiling").to_string();
        assert!(error(0, 8).contains("tile_height = 0"));
        assert!(error(256, 100).contains("stride_height = 100 is not valid: expected a multiple of 8"));
        assert!(error(64, 72).contains("at most tile_height = 64"));
        assert!(grid(Tiling::default(), [32, 32]).expect("is valid").is_none());
        assert!(grid(Tiling::default(), [32, 33]).expect("is valid").is_some());
    }
}
