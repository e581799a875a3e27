//! Videos cut into patches and put together again.
//!
//! A patch is one token; its values are ordered channel, frame, row, column, and tokens frame, row, column.
//! Image models that pack squares of pixels (Flux) do the same with one frame.

use candle_core::{Result, Tensor};

use magcache_checkpoint::Ops;

use super::{
    cpu::{compute, on_cpu, rows_per_piece},
    share::share,
};

/// `[batch, channels, frames, height, width]` to `[batch, tokens, channels * patch values]`.
///
/// Fails if `patch` (frames, rows, columns) does not divide the video.
pub fn patchify(video: &Tensor, patch: [usize; 3]) -> Result<Tensor> {
    let (batch, channels, frames, height, width) = video.dims5()?;
    let size = [frames, height, width];
    if (0..3).any(|axis| patch[axis] == 0 || !size[axis].is_multiple_of(patch[axis])) {
        candle_core::bail!("{size:?} frames, rows and columns do not divide into patches of {patch:?}");
    }
    let grid = std::array::from_fn(|axis| size[axis] / patch[axis]);
    let cut = Cut { batch, channels, grid, patch };
    if on_cpu(Ops::Kernels, video) {
        compute("patchify", video, cut.tokens(), |video| cut.patches(video))
    } else {
        cut.patchify(video)
    }
}

/// The inverse of [`patchify`]: `[batch, tokens, channels * patch values]` of a `grid` of tokens, in frames,
/// rows and columns, to `[batch, channels, frames, height, width]`.
pub fn unpatchify(tokens: &Tensor, grid: [usize; 3], patch: [usize; 3]) -> Result<Tensor> {
    let (batch, count, values) = tokens.dims3()?;
    let volume = patch.iter().product::<usize>();
    if count != grid.iter().product::<usize>() || volume == 0 || !values.is_multiple_of(volume) {
        candle_core::bail!("tokens {:?} are no grid of {grid:?} patches of {patch:?}", tokens.shape());
    }
    let cut = Cut { batch, channels: values / volume, grid, patch };
    if on_cpu(Ops::Kernels, tokens) {
        compute("unpatchify", tokens, cut.video(), |tokens| cut.pixels(tokens))
    } else {
        cut.unpatchify(tokens)
    }
}

#[derive(Clone, Copy)]
struct Cut {
    batch: usize,
    channels: usize,
    grid: [usize; 3],
    patch: [usize; 3],
}

impl Cut {
    fn patchify(&self, video: &Tensor) -> Result<Tensor> {
        let ([f, h, w], [pt, ph, pw]) = (self.grid, self.patch);
        video
            .reshape(&[self.batch, self.channels, f, pt, h, ph, w, pw][..])?
            .permute([0, 2, 4, 6, 1, 3, 5, 7])?
            .reshape(self.tokens())
    }

    fn unpatchify(&self, tokens: &Tensor) -> Result<Tensor> {
        let ([f, h, w], [pt, ph, pw]) = (self.grid, self.patch);
        tokens
            .reshape(&[self.batch, f, h, w, self.channels, pt, ph, pw][..])?
            .permute([0, 4, 1, 5, 2, 6, 3, 7])?
            .reshape(self.video())
    }

    fn tokens(&self) -> (usize, usize, usize) {
        (self.batch, self.grid.iter().product(), self.values())
    }

    fn video(&self) -> (usize, usize, usize, usize, usize) {
        let [f, h, w] = std::array::from_fn(|axis| self.grid[axis] * self.patch[axis]);
        (self.batch, self.channels, f, h, w)
    }

    /// Values of one token.
    fn values(&self) -> usize {
        self.channels * self.patch.iter().product::<usize>()
    }

    /// The pixels of a frame of one channel.
    fn plane(&self) -> usize {
        let ([_, h, w], [_, ph, pw]) = (self.grid, self.patch);
        h * ph * w * pw
    }

    /// The lines of the video that token row `row` = (sample, frame, row of tokens) consists of, in the order
    /// of a token's values.
    fn lines(&self, row: usize) -> impl Iterator<Item = usize> {
        let (Self { channels, .. }, [f, h, _], [pt, ph, _]) = (*self, self.grid, self.patch);
        let (y, sample, frame) = (row % h, row / h / f, row / h % f);
        (0..channels).flat_map(move |channel| {
            let first = ((sample * channels + channel) * f + frame) * pt;
            (first..first + pt).flat_map(move |frame| (frame * h + y) * ph..(frame * h + y + 1) * ph)
        })
    }

    /// The first token of plane `plane` = (sample, channel, frame), and where the plane's values begin in a
    /// token.
    fn place(&self, plane: usize) -> (usize, usize) {
        let ([f, h, w], [pt, ph, pw]) = (self.grid, self.patch);
        let (frame, rest) = (plane % (f * pt), plane / (f * pt));
        let (channel, sample) = (rest % self.channels, rest / self.channels);
        ((sample * f + frame / pt) * h * w, (channel * pt + frame % pt) * ph * pw)
    }

    /// The values of the tokens of a video.
    fn patches(&self, video: &[f32]) -> Vec<f32> {
        let (values, pw) = (self.values(), self.patch[2]);
        let (width, pixels) = (self.grid[2] * values, self.grid[2] * pw);
        let mut out = vec![0f32; video.len()];
        let rows = rows_per_piece(width);
        share(out.chunks_mut((rows * width).max(1)).enumerate(), |(piece, out)| {
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let places = (0..values).step_by(pw);
                self.lines(piece * rows + i).zip(places).for_each(|(line, place)| {
                    let line = video[line * pixels..][..pixels].chunks_exact(pw);
                    for (token, pixels) in out.chunks_exact_mut(values).zip(line) {
                        copy(&mut token[place..place + pw], pixels);
                    }
                });
            }
        });
        out
    }

    /// The values of the video of tokens.
    fn pixels(&self, tokens: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; tokens.len()];
        let (values, plane, [_, _, w], [_, ph, pw]) = (self.values(), self.plane(), self.grid, self.patch);
        let planes = rows_per_piece(plane);
        share(out.chunks_mut((planes * plane).max(1)).enumerate(), |(piece, out)| {
            for (i, out) in out.chunks_exact_mut(plane).enumerate() {
                let (first, place) = self.place(piece * planes + i);
                let rows = tokens[first * values..].chunks_exact(w * values);
                for (out, row) in out.chunks_exact_mut(ph * w * pw).zip(rows) {
                    for (r, line) in out.chunks_exact_mut(w * pw).enumerate() {
                        let place = place + r * pw;
                        for (pixels, token) in line.chunks_exact_mut(pw).zip(row.chunks_exact(values)) {
                            copy(pixels, &token[place..place + pw]);
                        }
                    }
                }
            }
        });
        out
    }
}

/// Copies the pixels of one row of a patch; calling the system's copy would take longer for the usual two
/// values.
#[inline]
fn copy(to: &mut [f32], from: &[f32]) {
    match (<&mut [f32; 2]>::try_from(&mut *to), <&[f32; 2]>::try_from(from)) {
        (Ok(to), Ok(from)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Shape};

    use super::*;
    use crate::testing::random;

    fn values(x: &Tensor) -> Result<Vec<f32>> {
        x.flatten_all()?.to_vec1()
    }

    #[test]
    fn kernels_equal_the_permutation() -> Result<()> {
        for (batch, channels, grid, patch) in
            [(1, 3, [2, 3, 4], [1, 2, 2]), (2, 4, [3, 2, 1], [2, 1, 3]), (1, 8, [9, 20, 24], [1, 2, 2])]
        {
            let cut = Cut { batch, channels, grid, patch };
            let video = random(Shape::from(cut.video()).dims())?;
            let tokens = patchify(&video, patch)?;
            assert_eq!((tokens.dims3()?, values(&tokens)?), (cut.tokens(), values(&cut.patchify(&video)?)?));
            assert_eq!(values(&cut.unpatchify(&tokens)?)?, values(&video)?);
            let again = unpatchify(&tokens, grid, patch)?;
            assert_eq!((again.dims5()?, values(&again)?), (cut.video(), values(&video)?));
        }
        Ok(())
    }

    #[test]
    fn refuses_what_does_not_divide() -> Result<()> {
        let video = Tensor::zeros((1, 2, 3, 5, 4), candle_core::DType::F32, &Device::Cpu)?;
        let message = patchify(&video, [1, 2, 2]).expect_err("five rows in pairs").to_string();
        assert!(message.contains("[3, 5, 4]"), "{message}");
        let tokens = Tensor::zeros((1, 6, 8), candle_core::DType::F32, &Device::Cpu)?;
        assert!(
            unpatchify(&tokens, [1, 2, 2], [1, 2, 2]).is_err()
                && unpatchify(&tokens, [1, 2, 3], [1, 1, 3]).is_err()
        );
        Ok(())
    }
}
