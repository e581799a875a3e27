//! Convolution over frames, rows and columns, with the channels last.
//!
//! candle has no 3-D convolution, and one made of its 2-D convolutions is several times slower than the
//! products that it consists of. With the channels last, the pixels under one row of the kernel are
//! contiguous in memory, so a kernel of `[3, 3, 3]` is nine matrix products over overlapping views,
//! accumulated tile by tile in the cache.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    cpu::{Held, compute, zeros},
    matmul::{Onto, Panels, Rows, Target, Values, product},
    weight::Weight,
};
use magcache_checkpoint::{CheckpointError, Ops, Weights};

/// Output pixels per tile: enough rows for the matrix product, few enough for the cache.
const TILE: usize = 512;

/// Below this many values under one row of the kernel, one product over all taps beats one product per row.
const NARROW: usize = 128;

/// Shape of a convolution; every array is frames, rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv3dConfig {
    /// Extent of the kernel.
    pub kernel: [usize; 3],
    /// Distance between outputs.
    pub stride: [usize; 3],
    /// Zeros before and after the input.
    pub padding: [(usize, usize); 3],
}

impl Conv3dConfig {
    fn output(&self, input: [usize; 3]) -> candle_core::Result<[usize; 3]> {
        let mut output = [0; 3];
        for (axis, out) in output.iter_mut().enumerate() {
            let padded = input[axis] + self.padding[axis].0 + self.padding[axis].1;
            match padded.checked_sub(self.kernel[axis]) {
                Some(rest) if self.stride[axis] > 0 && self.kernel[axis] > 0 => {
                    *out = rest / self.stride[axis] + 1;
                }
                _ => {
                    candle_core::bail!("convolution: input {input:?} is smaller than the kernel of {self:?}")
                }
            }
        }
        Ok(output)
    }
}

/// A convolution, computed in f32 on the CPU.
///
/// There, an f32 weight is stored in the order in which products read it; a half-precision weight stays as it
/// is and is widened for each call.
#[derive(Clone, Debug)]
pub struct Conv3d {
    /// `[frames, rows, columns, in, out]`.
    weight: Weight<Arc<Lines>>,
    shape: [usize; 5],
    bias: Tensor,
    config: Conv3dConfig,
    ops: Ops,
}

/// The matrices of the products that a convolution consists of.
#[derive(Debug)]
enum Lines {
    /// One per line of the kernel, `[columns * in, out]`.
    Windowed(Vec<Panels>),
    /// One for the whole kernel.
    Gathered(Panels),
}

impl Conv3d {
    /// Reads `weight` `[out, in, frames, rows, columns]` and `bias` `[out]`.
    pub fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        config: Conv3dConfig,
    ) -> Result<Self, CheckpointError> {
        let [frames, rows, columns] = config.kernel;
        let weight = weights.get("weight", &[outputs, inputs, frames, rows, columns])?;
        Self::from_weight(weights.ops(), &weight, weights.get_f32("bias", &[outputs])?, config)
    }

    /// Reads `weight` `[out, in, rows, columns]` and `bias` `[out]` of a kernel of one frame.
    pub fn load_2d(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        config: Conv3dConfig,
    ) -> Result<Self, CheckpointError> {
        let [_, rows, columns] = config.kernel;
        let weight = weights.get("weight", &[outputs, inputs, rows, columns])?.unsqueeze(2)?;
        Self::from_weight(weights.ops(), &weight, weights.get_f32("bias", &[outputs])?, config)
    }

    fn from_weight(
        ops: Ops,
        weight: &Tensor,
        bias: Tensor,
        config: Conv3dConfig,
    ) -> Result<Self, CheckpointError> {
        let weight = weight.permute((2, 3, 4, 1, 0))?.contiguous()?;
        let (frames, rows, columns, inputs, outputs) = weight.dims5()?;
        let weight = Weight::new(ops, weight, |weight| Lines::of(weight, &config).map(Arc::new))?;
        Ok(Self { weight, shape: [frames, rows, columns, inputs, outputs], bias, config, ops })
    }

    /// Shape of the convolution.
    pub fn config(&self) -> &Conv3dConfig {
        &self.config
    }

    /// `[batch, frames, height, width, in]` to `[batch, frames, height, width, out]`.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.run(x, self.config)
    }

    /// The same, preceded by the frames `before`, which replace as many zeros of the padding; for streams.
    pub fn forward_after(&self, before: &Tensor, x: &Tensor) -> candle_core::Result<Tensor> {
        let mut config = self.config;
        config.padding[0].0 = config.padding[0].0.saturating_sub(before.dim(1)?);
        self.run(&Tensor::cat(&[before, x], 1)?, config)
    }

    fn run(&self, x: &Tensor, config: Conv3dConfig) -> candle_core::Result<Tensor> {
        let (batch, frames, height, width, channels) = x.dims5()?;
        let [.., inputs, outputs] = self.shape;
        if channels != inputs || inputs * outputs == 0 {
            candle_core::bail!("convolution: {:?} for a weight of {:?}", x.shape(), self.shape);
        }
        let output = config.output([frames, height, width])?;
        let lines = match self
            .weight
            .of_product(self.ops, x, |weight| Lines::of(weight, &self.config).map(Arc::new))?
        {
            Weight::Prepared(lines) => lines,
            Weight::Stored(weight) => return plain(x, &weight.to_dtype(x.dtype())?, &self.bias, config),
        };
        let bias = Held::new("conv3d", &self.bias);
        let bias = bias.per_channel(outputs)?;
        let [out_frames, out_height, out_width] = output;
        compute("conv3d", x, (batch, out_frames, out_height, out_width, outputs), |x| {
            let input = [frames, height, width];
            Job { config, x, bias, input, output, channels: (inputs, outputs) }.run(batch, &lines)
        })
    }
}

impl Lines {
    /// From a weight `[frames, rows, columns, in, out]` on the CPU.
    fn of(weight: &Tensor, config: &Conv3dConfig) -> candle_core::Result<Self> {
        let (frames, rows, columns, inputs, outputs) = weight.dims5()?;
        let held = Held::new("convolution", weight);
        let values = Values::of(&held)?;
        let depth = columns * inputs;
        let strided = config.stride[1] != 1 || config.stride[2] != 1;
        if strided || depth < NARROW {
            let depth = frames * rows * depth;
            return Ok(Self::Gathered(Panels::from_rows(values, outputs, depth, outputs)));
        }
        let line = |i: usize| Panels::from_rows(values.from(i * depth * outputs), outputs, depth, outputs);
        Ok(Self::Windowed((0..frames * rows).map(line).collect()))
    }
}

/// Sum of one 2-D convolution per frame of the kernel.
fn plain(x: &Tensor, weight: &Tensor, bias: &Tensor, config: Conv3dConfig) -> candle_core::Result<Tensor> {
    let Conv3dConfig { kernel, stride, padding } = config;
    if stride[1] != stride[2] {
        candle_core::bail!("convolution: strides of rows and columns must be equal, got {stride:?}");
    }
    let (batch, frames, height, width, channels) = x.dims5()?;
    let [out_frames, out_height, out_width] = config.output([frames, height, width])?;
    let mut x = x.clone();
    for (axis, (before, after)) in padding.into_iter().enumerate() {
        x = x.pad_with_zeros(axis + 1, before, after)?;
    }
    let taken =
        |tap: usize| (0..out_frames).map(|frame| (frame * stride[0] + tap) as u32).collect::<Vec<_>>();
    let mut sum: Option<Tensor> = None;
    for tap in 0..kernel[0] {
        let frames = x.index_select(&Tensor::new(taken(tap), x.device())?, 1)?;
        let (_, _, height, width, _) = frames.dims5()?;
        let frames = frames
            .reshape((batch * out_frames, height, width, channels))?
            .permute((0, 3, 1, 2))?
            .contiguous()?;
        let y = frames.conv2d(&weight.get(tap)?.permute((3, 2, 0, 1))?.contiguous()?, 0, stride[1], 1, 1)?;
        sum = Some(match sum {
            None => y,
            Some(sum) => (sum + y)?,
        });
    }
    let Some(sum) = sum else { candle_core::bail!("convolution: empty kernel") };
    sum.permute((0, 2, 3, 1))?
        .reshape((batch, out_frames, out_height, out_width, weight.dim(4)?))?
        .broadcast_add(&bias.to_dtype(x.dtype())?)
}

struct Job<'a> {
    config: Conv3dConfig,
    /// `[batch, frames, height, width, in]`.
    x: &'a [f32],
    bias: &'a [f32],
    input: [usize; 3],
    output: [usize; 3],
    channels: (usize, usize),
}

/// Some lines of one output frame.
struct Tile {
    batch: usize,
    frame: usize,
    first: usize,
    lines: usize,
}

impl Job<'_> {
    /// `[batch, frames, height, width, out]`.
    fn run(&self, batch: usize, lines: &Lines) -> Vec<f32> {
        let [frames, height, width] = self.output;
        let line = (width * self.channels.1).max(1);
        let mut out = zeros(batch * frames * height * width * self.channels.1);
        out.par_chunks_mut((height * line).max(1)).enumerate().for_each(|(frame, out)| {
            let count = self.lines();
            out.par_chunks_mut(count * line).enumerate().for_each(|(i, out)| {
                let (batch, frame) = (frame / frames, frame % frames);
                let tile = Tile { batch, frame, first: i * count, lines: out.len() / line };
                match lines {
                    Lines::Gathered(weight) => self.gathered(&tile, weight, out),
                    Lines::Windowed(weights) => self.windowed(&tile, weights, out),
                }
            });
        });
        out
    }

    /// Lines in the tile.
    fn lines(&self) -> usize {
        (TILE / self.output[2].max(1)).clamp(1, self.output[1].max(1))
    }

    /// The input line under output line `line` at tap (`frame`, `row`) of the kernel; `None` in the padding.
    fn line(&self, tile: &Tile, line: usize, frame: usize, row: usize) -> Option<&[f32]> {
        let Conv3dConfig { stride, padding, .. } = self.config;
        let [frames, height, width] = self.input;
        let frame =
            (tile.frame * stride[0] + frame).checked_sub(padding[0].0).filter(|frame| *frame < frames)?;
        let row =
            ((tile.first + line) * stride[1] + row).checked_sub(padding[1].0).filter(|row| *row < height)?;
        let length = width * self.channels.0;
        let start = ((tile.batch * frames + frame) * height + row) * length;
        self.x.get(start..start + length)
    }

    /// Stride 1: copies the padded lines of the tile, then does one product per line of the kernel over a
    /// view in which the pixels overlap. The products also cover the seams between lines; those results are
    /// dropped.
    fn windowed(&self, tile: &Tile, weights: &[Panels], out: &mut [f32]) {
        let [taps, kernel_rows, kernel_columns] = self.config.kernel;
        let (inputs, outputs) = self.channels;
        let padded = self.output[2] + kernel_columns - 1;
        let (rows, left) = (tile.lines + kernel_rows - 1, self.config.padding[2].0 * inputs);
        let mut window = vec![0f32; taps * rows * padded * inputs];
        let mut empty = vec![true; taps];
        for (i, target) in window.chunks_exact_mut((padded * inputs).max(1)).enumerate() {
            if let Some(line) = self.line(tile, i % rows, i / rows, 0) {
                target[left..left + line.len()].copy_from_slice(line);
                empty[i / rows] = false;
            }
        }
        let m = tile.lines * padded - (kernel_columns - 1);
        let mut sum = self.bias.repeat(m);
        for tap in (0..taps).filter(|tap| !empty[*tap]) {
            for row in 0..kernel_rows {
                let pixels = &window[(tap * rows + row) * padded * inputs..];
                let pixels = Rows { values: pixels, stride: inputs, count: m };
                let target =
                    Target { values: &mut sum, stride: outputs, columns: outputs, onto: Onto::Target };
                product(pixels, &weights[tap * kernel_rows + row], 0, target, &());
            }
        }
        let line = self.output[2] * outputs;
        for (out, sum) in out.chunks_exact_mut(line).zip(sum.chunks(padded * outputs)) {
            out.copy_from_slice(&sum[..line]);
        }
    }

    /// Any stride: gathers all pixels under the kernel, then does one product.
    fn gathered(&self, tile: &Tile, weight: &Panels, out: &mut [f32]) {
        let [taps, kernel_rows, kernel_columns] = self.config.kernel;
        let (inputs, outputs) = self.channels;
        let (width, stride, left) = (self.output[2], self.config.stride[2], self.config.padding[2].0);
        let k = taps * kernel_rows * kernel_columns * inputs;
        let part = kernel_columns * inputs;
        let mut pixels = vec![0f32; tile.lines * width * k];
        for (i, pixels) in pixels.chunks_exact_mut((width * k).max(1)).enumerate() {
            for tap in 0..taps * kernel_rows {
                let Some(line) = self.line(tile, i, tap / kernel_rows, tap % kernel_rows) else { continue };
                for (x, pixel) in pixels.chunks_exact_mut(k).enumerate() {
                    let target = &mut pixel[tap * part..(tap + 1) * part];
                    // Columns of the input under this output, without the padding.
                    let first = x * stride;
                    let skipped = left.saturating_sub(first).min(kernel_columns);
                    let from = (first + skipped).saturating_sub(left) * inputs;
                    let length = ((kernel_columns - skipped) * inputs).min(line.len().saturating_sub(from));
                    if let Some(line) = line.get(from..from + length) {
                        target[skipped * inputs..][..length].copy_from_slice(line);
                    }
                }
            }
        }
        let pixels = Rows { values: &pixels, stride: k, count: tile.lines * width };
        let target = Target { values: out, stride: outputs, columns: outputs, onto: Onto::Bias(self.bias) };
        product(pixels, weight, 0, target, &());
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::testing::{largest, random, worst};

    fn check(input: [usize; 5], outputs: usize, config: Conv3dConfig) -> candle_core::Result<()> {
        let x = random(&input)?;
        let [frames, rows, columns] = config.kernel;
        let weight = random(&[outputs, input[4], frames, rows, columns])?;
        let conv = Conv3d::from_weight(Ops::Kernels, &weight, random(&[outputs])?, config)
            .map_err(candle_core::Error::wrap)?;
        let ours = conv.forward(&x)?;
        let plain = plain(&x, &weight.permute((2, 3, 4, 1, 0))?.contiguous()?, &conv.bias, config)?;
        let (worst, largest) = (worst(&ours, &plain)?, largest(&ours)?);
        assert!(worst < 2e-6 * largest, "{config:?} {worst} of {largest}");
        Ok(())
    }

    #[test]
    fn agrees_with_sums_of_2d_convolutions() -> candle_core::Result<()> {
        let same = Conv3dConfig { kernel: [3; 3], stride: [1; 3], padding: [(2, 0), (1, 1), (1, 1)] };
        let down = Conv3dConfig { kernel: [1, 3, 3], stride: [1, 2, 2], padding: [(0, 0), (0, 1), (0, 1)] };
        let time = Conv3dConfig { kernel: [3, 1, 1], stride: [2, 1, 1], padding: [(1, 0), (0, 0), (0, 0)] };
        for channels in [3, 50] {
            check([2, 3, 7, 5, channels], 11, same)?;
            check([1, 1, 40, 30, channels], 4, same)?;
            check([1, 2, 2, 600, channels], 4, same)?;
            check([2, 3, 7, 10, channels], 11, down)?;
            check([1, 2, 2, 2, channels], 5, down)?;
            check([1, 5, 4, 6, channels], 3, time)?;
            check([1, 4, 6, 9, channels], 3, Conv3dConfig { padding: [(0, 2), (2, 0), (4, 5)], ..same })?;
            check(
                [1, 4, 6, 9, channels],
                3,
                Conv3dConfig { stride: [1, 3, 3], padding: [(0, 0), (2, 2), (2, 0)], ..same },
            )?;
        }
        check([1, 2, 3, 4, 200], 3, time)
    }

    #[test]
    fn frames_before_replace_padding() -> candle_core::Result<()> {
        let config = Conv3dConfig { kernel: [3; 3], stride: [1; 3], padding: [(2, 0), (1, 1), (1, 1)] };
        let conv = Conv3d::from_weight(Ops::Kernels, &random(&[4, 50, 3, 3, 3])?, random(&[4])?, config)
            .map_err(candle_core::Error::wrap)?;
        let x = random(&[1, 5, 4, 4, 50])?;
        let whole = conv.forward(&x)?;
        for cached in 1..=2 {
            let rest = conv.forward_after(&x.narrow(1, 3 - cached, cached)?, &x.narrow(1, 3, 2)?)?;
            assert_eq!(rest.dims(), [1, 2, 4, 4, 4]);
            let worst = (rest - whole.narrow(1, 3, 2)?)?.abs()?.narrow(1, 2 - cached, cached)?;
            assert!(cached == 1 || worst.flatten_all()?.max(0)?.to_scalar::<f32>()? < 1e-4);
        }
        Ok(())
    }

    #[test]
    fn refuses_inputs_that_do_not_fit() -> candle_core::Result<()> {
        let config = Conv3dConfig { kernel: [3; 3], stride: [1; 3], padding: [(0, 0); 3] };
        let conv = Conv3d::from_weight(Ops::Kernels, &random(&[4, 5, 3, 3, 3])?, random(&[4])?, config)
            .map_err(candle_core::Error::wrap)?;
        assert!(conv.forward(&random(&[1, 2, 4, 4, 5])?).is_err());
        assert!(conv.forward(&random(&[1, 3, 4, 4, 6])?).is_err());
        assert_eq!(conv.forward(&random(&[1, 3, 4, 4, 5])?)?.dims(), [1, 1, 2, 2, 4]);
        let empty = Tensor::zeros((1, 3, 4, 4, 0), DType::F32, &Device::Cpu)?;
        assert!(conv.forward(&empty).is_err());
        Ok(())
    }
}
