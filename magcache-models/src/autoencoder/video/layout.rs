//! Conversion between videos, whose channels come first, and the network, whose channels come last and which,
//! in Wan 2.2, works on patches of pixels.

use candle_core::{DType, Result, Tensor};

/// `[batch, channels, frames, height, width]` to
/// `[batch, frames, height / patch, width / patch, channels * patch^2]` in f32. The values of a patch are
/// ordered channel, column, row, as in the reference.
pub(super) fn to_network(video: &Tensor, patch: usize) -> Result<Tensor> {
    let video = video.to_dtype(DType::F32)?;
    if patch == 1 {
        return video.permute((0, 2, 3, 4, 1))?.contiguous();
    }
    let (batch, channels, frames, height, width) = video.dims5()?;
    let (rows, columns) = (height / patch, width / patch);
    video
        .reshape(&[batch, channels, frames, rows, patch, columns, patch][..])?
        .permute([0, 2, 3, 5, 1, 6, 4].as_slice())?
        .reshape((batch, frames, rows, columns, channels * patch * patch))
}

/// The inverse of [`to_network`].
pub(super) fn to_video(x: &Tensor, patch: usize) -> Result<Tensor> {
    if patch == 1 {
        return channels_first(x);
    }
    let (batch, frames, rows, columns, values) = x.dims5()?;
    let channels = values / (patch * patch);
    x.reshape(&[batch, frames, rows, columns, channels, patch, patch][..])?
        .permute([0, 4, 1, 2, 6, 3, 5].as_slice())?
        .reshape((batch, channels, frames, rows * patch, columns * patch))
}

/// `[batch, frames, height, width, channels]` to `[batch, channels, frames, height, width]`.
pub(super) fn channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 4, 1, 2, 3))?.contiguous()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn patches_run_over_channels_then_columns_then_rows() -> Result<()> {
        let video = Tensor::arange(0f32, 2.0 * 3.0 * 4.0 * 6.0, &Device::Cpu)?.reshape((1, 2, 3, 4, 6))?;
        let x = to_network(&video, 2)?;
        assert_eq!(x.dims(), [1, 3, 2, 3, 8]);
        let patch = x.narrow(1, 1, 1)?.narrow(2, 1, 1)?.narrow(3, 2, 1)?.flatten_all()?.to_vec1::<f32>()?;
        let pixel = |c: usize, row: usize, column: usize| (((c * 3 + 1) * 4 + row) * 6 + column) as f32;
        let expected = [0, 1].map(|c| [pixel(c, 2, 4), pixel(c, 3, 4), pixel(c, 2, 5), pixel(c, 3, 5)]);
        assert_eq!(patch, expected.concat());
        for patch in [1, 2] {
            let back = to_video(&to_network(&video, patch)?, patch)?;
            assert_eq!(back.flatten_all()?.to_vec1::<f32>()?, video.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(())
    }
}
