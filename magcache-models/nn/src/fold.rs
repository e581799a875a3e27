//! The shortcut around a level of Wan 2.2, which changes resolution and channels without weights.
//!
//! Both directions number the values of a block of `time` frames by `space` rows by `space` columns the same
//! way: by channel, then frame, row and column. Going down, groups of consecutive values are averaged; going
//! up, every value is repeated.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use magcache_checkpoint::Ops;
use rayon::prelude::*;

use crate::cpu::{contiguous, on_cpu};

/// What a level changes: the channels, and how many frames, rows and columns are merged into one or split
/// from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Channels before.
    pub inputs: usize,
    /// Channels after.
    pub outputs: usize,
    /// Frames of a block.
    pub time: usize,
    /// Rows and columns of a block.
    pub space: usize,
}

impl Fold {
    /// Values per block in one channel.
    pub fn volume(&self) -> usize {
        self.time * self.space * self.space
    }

    /// Frame, row and column of the `i`th value within the block.
    fn place(&self, i: usize) -> [usize; 3] {
        [i / (self.space * self.space), i / self.space % self.space, i % self.space]
    }

    fn size(&self) -> [usize; 3] {
        [self.time, self.space, self.space]
    }
}

/// `AvgDown3D` of the reference.
#[derive(Clone, Copy, Debug)]
pub struct AvgDown(pub Fold, pub Ops);

/// `DupUp3D` of the reference.
#[derive(Clone, Copy, Debug)]
pub struct DupUp(pub Fold, pub Ops);

impl AvgDown {
    /// `y + down(x)`; `y` must not be shared. Zeros are prepended to a first chunk of too few frames.
    pub fn add_to(&self, y: Tensor, x: &Tensor) -> Result<Tensor> {
        if on_cpu(self.1, &y) {
            self.add_in_place(&y, &x.contiguous()?)?;
            return Ok(y);
        }
        y + self.plain(x)?
    }

    fn add_in_place(&self, y: &Tensor, x: &Tensor) -> Result<()> {
        let (fold, (batch, frames, height, width, channels)) = (self.0, x.dims5()?);
        let pad = missing(frames, fold.time);
        let [time, rows, columns] = fold.size();
        let expected = (batch, (frames + pad) / time, height / rows, width / columns, fold.outputs);
        let group = channels * fold.volume() / fold.outputs;
        let whole = height % rows == 0 && width % columns == 0 && group > 0;
        if y.dims5()? != expected || channels != fold.inputs || !whole {
            candle_core::bail!("{fold:?}: {:?} cannot become {:?}", x.shape(), y.shape());
        }
        let (shape, scale) = ([frames, height, width, channels], 1.0 / group as f32);
        let kernel = |pixel: &mut [f32], [b, t, h, w]: [usize; 4], x: &[f32]| {
            let source: Vec<Option<usize>> = (0..fold.volume())
                .map(|i| {
                    let [dt, dh, dw] = fold.place(i);
                    let frame = (t * time + dt).checked_sub(pad)?;
                    Some(offset(shape, [b, frame, h * rows + dh, w * columns + dw]))
                })
                .collect();
            for (o, y) in pixel.iter_mut().enumerate() {
                let values = (o * group..(o + 1) * group).filter_map(|i| {
                    let start = source.get(i % source.len()).copied().flatten()?;
                    x.get(start + i / source.len())
                });
                *y += values.sum::<f32>() * scale;
            }
        };
        y.inplace_op2(x, &EachPixel { op: "average-down", kernel })
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        let Fold { outputs, time, space, .. } = self.0;
        let x = x.pad_with_zeros(1, missing(x.dim(1)?, time), 0)?;
        let (batch, frames, height, width, channels) = x.dims5()?;
        let grid = [frames / time, height / space, width / space];
        x.reshape(&[batch, grid[0], time, grid[1], space, grid[2], space, channels][..])?
            .permute([0, 1, 3, 5, 7, 2, 4, 6].as_slice())?
            .reshape(&[batch, grid[0], grid[1], grid[2], outputs, channels * self.0.volume() / outputs][..])?
            .mean(5)
    }
}

impl DupUp {
    /// `y + up(x)`; `y` must not be shared. From a first chunk, the leading frames that causality has no room
    /// for are dropped.
    pub fn add_to(&self, y: Tensor, x: &Tensor, first_chunk: bool) -> Result<Tensor> {
        let skipped = if first_chunk { self.0.time - 1 } else { 0 };
        if on_cpu(self.1, &y) {
            self.add_in_place(&y, &x.contiguous()?, skipped)?;
            return Ok(y);
        }
        y + self.plain(x, skipped)?
    }

    fn add_in_place(&self, y: &Tensor, x: &Tensor, skipped: usize) -> Result<()> {
        let (fold, (batch, frames, height, width, channels)) = (self.0, x.dims5()?);
        let [time, rows, columns] = fold.size();
        let expected = (batch, frames * time - skipped, height * rows, width * columns, fold.outputs);
        let repeats = fold.outputs * fold.volume() / channels.max(1);
        if y.dims5()? != expected || channels != fold.inputs || repeats == 0 {
            candle_core::bail!("{fold:?}: {:?} cannot become {:?}", x.shape(), y.shape());
        }
        let shape = [frames, height, width, channels];
        let kernel = |pixel: &mut [f32], [b, t, h, w]: [usize; 4], x: &[f32]| {
            let t = t + skipped;
            let start = offset(shape, [b, t / time, h / rows, w / columns]);
            let source = x.get(start..start + channels).unwrap_or_default();
            let place = (t % time * rows + h % rows) * columns + w % columns;
            for (o, y) in pixel.iter_mut().enumerate() {
                if let Some(x) = source.get((o * fold.volume() + place) / repeats) {
                    *y += x;
                }
            }
        };
        y.inplace_op2(x, &EachPixel { op: "repeat-up", kernel })
    }

    fn plain(&self, x: &Tensor, skipped: usize) -> Result<Tensor> {
        let Fold { outputs, time, space, .. } = self.0;
        let (batch, frames, height, width, channels) = x.dims5()?;
        let repeats = outputs * self.0.volume() / channels;
        x.unsqueeze(5)?
            .broadcast_as(&[batch, frames, height, width, channels, repeats][..])?
            .reshape(&[batch, frames, height, width, outputs, time, space, space][..])?
            .permute([0, 1, 5, 2, 6, 3, 7, 4].as_slice())?
            .reshape((batch, frames * time, height * space, width * space, outputs))?
            .narrow(1, skipped, frames * time - skipped)
    }
}

/// Frames missing to a multiple of `time`.
fn missing(frames: usize, time: usize) -> usize {
    (time - frames % time) % time
}

/// Adds to every pixel of a tensor, on all cores.
struct EachPixel<K> {
    op: &'static str,
    /// Called with the pixel, its sample, frame, row and column, and the other tensor.
    kernel: K,
}

impl<K: Fn(&mut [f32], [usize; 4], &[f32]) + Sync> InplaceOp2 for EachPixel<K> {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        let op = self.op;
        let (_, frames, height, width, channels) = y_layout.shape().dims5()?;
        let x = contiguous(op, x, x_layout)?;
        let (CpuStorage::F32(values), Some((start, end))) = (y, y_layout.contiguous_offsets()) else {
            candle_core::bail!("{op}: expected a contiguous f32 tensor")
        };
        let Some(values) = values.get_mut(start..end) else {
            candle_core::bail!("{op}: layout exceeds storage")
        };
        values.par_chunks_mut((width * channels).max(1)).enumerate().for_each(|(line, pixels)| {
            let (frame, row) = (line / height, line % height);
            for (column, pixel) in pixels.chunks_exact_mut(channels).enumerate() {
                (self.kernel)(pixel, [frame / frames, frame % frames, row, column], x);
            }
        });
        Ok(())
    }
}

/// Where the pixel at (sample, frame, row, column) begins in a contiguous tensor of this shape.
fn offset([frames, height, width, channels]: [usize; 4], [b, t, h, w]: [usize; 4]) -> usize {
    (((b * frames + t) * height + h) * width + w) * channels
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{random, worst};

    const FOLDS: [(usize, usize, usize, usize); 6] =
        [(6, 6, 1, 1), (4, 8, 1, 2), (4, 8, 2, 2), (8, 4, 2, 2), (5, 5, 2, 2), (6, 3, 1, 2)];

    #[test]
    fn kernels_agree_with_candle() -> Result<()> {
        for ((inputs, outputs, time, space), frames) in FOLDS.iter().flat_map(|f| [(*f, 1), (*f, 4)]) {
            let fold = Fold { inputs, outputs, time, space };
            let x = random(&[2, frames, 4, 6, inputs])?;
            let expected = AvgDown(fold, Ops::Kernels).plain(&x)?;
            let y = random(expected.dims())?;
            let (sum, ours) = ((&y + expected)?, AvgDown(fold, Ops::Kernels).add_to(y.copy()?, &x)?);
            assert!(worst(&ours, &sum)? < 1e-6, "{fold:?} {frames}");
            for first in [false, true] {
                let expected = DupUp(fold, Ops::Kernels).plain(&x, if first { time - 1 } else { 0 })?;
                let y = random(expected.dims())?;
                let (sum, ours) = ((&y + expected)?, DupUp(fold, Ops::Kernels).add_to(y.copy()?, &x, first)?);
                assert!(worst(&ours, &sum)? < 1e-6, "{fold:?} {frames} {first}");
            }
        }
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() -> Result<()> {
        let fold = Fold { inputs: 4, outputs: 4, time: 2, space: 2 };
        let zeros = |shape: [usize; 5]| Tensor::zeros(&shape, candle_core::DType::F32, &Device::Cpu);
        assert!(
            AvgDown(fold, Ops::Kernels).add_to(zeros([1, 2, 2, 2, 4])?, &zeros([1, 4, 5, 4, 4])?).is_err()
        );
        assert!(
            AvgDown(fold, Ops::Kernels).add_to(zeros([1, 2, 2, 2, 4])?, &zeros([1, 4, 4, 4, 3])?).is_err()
        );
        assert!(
            DupUp(fold, Ops::Kernels)
                .add_to(zeros([1, 2, 2, 2, 4])?, &zeros([1, 1, 1, 1, 4])?, true)
                .is_err()
        );
        Ok(())
    }
}
