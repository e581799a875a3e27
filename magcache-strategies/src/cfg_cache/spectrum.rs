//! Low spatial frequencies of latents, by a discrete Fourier transform restricted to the frequencies that are
//! kept.

use std::f64::consts::TAU;

use candle_core::{DType, Device, Result, Tensor, bail};

/// The part of `x` `[.., height, width]` whose spatial frequencies lie in a disc of radius `min(height,
/// width) / 5` (rounded down) around zero, for each plane separately, in f32.
///
/// The mask is that of Vchitect/FasterCache, a disc around the centre of the shifted spectrum. It is
/// symmetric, so the low part of a real plane is real, and only the `2·radius + 1` frequencies of each axis
/// that it can contain are transformed: four small matrix products instead of a transform of the whole plane.
///
/// Errors: fewer than two dimensions.
pub fn low_pass(x: &Tensor) -> Result<Tensor> {
    let (dims, device) = (x.dims().to_vec(), x.device());
    let [.., height, width] = dims[..] else { bail!("latents of shape {dims:?} have no height and width") };
    let planes = (x.elem_count() / (height * width).max(1)).max(1);
    let x = x.to_dtype(DType::F32)?.reshape((planes, height, width))?;
    let radius = height.min(width) / 5;
    let (rows, columns) = (Axis::new(height, radius, device)?, Axis::new(width, radius, device)?);

    let (re, im) = columns.forward(&x, None)?;
    let (re, im) = rows.forward(&flipped(&re)?, Some(&flipped(&im)?))?;
    let mask = disc(radius, device)?;
    let (re, im) = (re.broadcast_mul(&mask)?, im.broadcast_mul(&mask)?);
    let (re, im) = rows.inverse(&re, &im)?;
    let (low, _) = columns.inverse(&flipped(&re)?, &flipped(&im)?)?;
    low.reshape(dims)
}

/// Cosines and sines of the kept frequencies, `[length, 2·radius + 1]`.
struct Axis {
    cos: Tensor,
    sin: Tensor,
    length: usize,
}

impl Axis {
    fn new(length: usize, radius: usize, device: &Device) -> Result<Self> {
        let kept = 2 * radius + 1;
        let table = |f: fn(f64) -> f64| {
            let at = |i: usize| {
                let (place, frequency) = ((i / kept) as f64, (i % kept) as f64 - radius as f64);
                f(TAU * place * frequency / length as f64) as f32
            };
            Tensor::from_vec((0..length * kept).map(at).collect::<Vec<_>>(), (length, kept), device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, length })
    }

    /// `[planes, n, length]` to its frequencies `[planes, n, kept]`: times `cos − i·sin`.
    fn forward(&self, re: &Tensor, im: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (cos, sin) = (times(re, &self.cos)?, times(re, &self.sin)?);
        let Some(im) = im else { return Ok((cos, sin.neg()?)) };
        Ok(((cos + times(im, &self.sin)?)?, (times(im, &self.cos)? - sin)?))
    }

    /// `[planes, n, kept]` to `[planes, n, length]`: times `cos + i·sin`, over the length.
    fn inverse(&self, re: &Tensor, im: &Tensor) -> Result<(Tensor, Tensor)> {
        let (cos, sin) = (self.cos.t()?.contiguous()?, self.sin.t()?.contiguous()?);
        let scale = 1.0 / self.length as f64;
        let real = ((times(re, &cos)? - times(im, &sin)?)? * scale)?;
        Ok((real, ((times(re, &sin)? + times(im, &cos)?)? * scale)?))
    }
}

/// `[planes, n, k] × [k, m]` as a single product.
fn times(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let (planes, n, k) = x.dims3()?;
    x.reshape((planes * n, k))?.matmul(matrix)?.reshape((planes, n, matrix.dim(1)?))
}

fn flipped(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.contiguous()
}

/// 1 where the frequency (column, row) lies in the disc, `[2·radius + 1, 2·radius + 1]`.
fn disc(radius: usize, device: &Device) -> Result<Tensor> {
    let (kept, r) = (2 * radius + 1, radius as f32);
    let inside = |i: usize| {
        let (column, row) = ((i / kept) as f32 - r, (i % kept) as f32 - r);
        f32::from(column * column + row * row <= r * r)
    };
    Tensor::from_vec((0..kept * kept).map(inside).collect::<Vec<_>>(), (kept, kept), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(height: usize, width: usize, (down, across): (usize, usize), phase: f64) -> Tensor {
        let at = |i: usize| {
            let (row, column) = ((i / width) as f64 / height as f64, (i % width) as f64 / width as f64);
            (TAU * (row * down as f64 + column * across as f64) + phase).cos() as f32
        };
        let values: Vec<f32> = (0..height * width).map(at).collect();
        Tensor::from_vec(values, (1, 1, height, width), &Device::Cpu).unwrap()
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        magcache_core::metrics::rms_difference(a, b).unwrap()[0]
    }

    #[test]
    fn a_wave_passes_whole_inside_the_disc_and_not_at_all_outside() {
        // A radius of 3 for both sizes: one side even, one odd.
        for (height, width) in [(16, 23), (23, 16), (15, 15)] {
            let zero = Tensor::zeros((1, 1, height, width), DType::F32, &Device::Cpu).unwrap();
            for down in 0..6 {
                for across in 0..6 {
                    let x = wave(height, width, (down, across), 0.4);
                    let low = low_pass(&x).unwrap();
                    let expected = if down * down + across * across <= 9 { &x } else { &zero };
                    let off = distance(&low, expected);
                    assert!(off < 1e-5, "{height}x{width}, wave {down} {across}: {off}");
                }
            }
        }
    }

    #[test]
    fn small_planes_keep_their_mean() {
        let x = Tensor::from_slice(&[1f32, 2.0, 3.0, 6.0], (1, 1, 2, 2), &Device::Cpu).unwrap();
        assert!(
            distance(&low_pass(&x).unwrap(), &Tensor::full(3f32, (1, 1, 2, 2), &Device::Cpu).unwrap()) < 1e-6
        );
        assert!(low_pass(&Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap()).is_err());
    }
}
