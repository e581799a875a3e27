//! From a tensor to 8-bit RGB frames.

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::{MediaError, VideoShape};

/// Which values mean black and white.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueRange {
    /// -1 is black, 1 is white: the output range of the VAEs of Wan and FLUX.
    Signed,
    /// 0 is black, 1 is white.
    Unit,
}

impl ValueRange {
    /// The nearest of the 256 levels; values outside the range are clamped.
    ///
    /// Equals `VaeImageProcessor` of diffusers 0.42.1 followed by `numpy_to_pil`: the same operations in f32,
    /// with ties to even as in `NumPy`. (`export_to_video` of diffusers truncates arrays instead, which
    /// darkens a video by half a level.)
    fn to_level(self, value: f32) -> u8 {
        let unit = match self {
            Self::Signed => value * 0.5 + 0.5,
            Self::Unit => value,
        };
        (unit.clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
    }
}

/// Frames of one video (or one image) as the model produced them; each is converted only on request, so that
/// a long video is in memory only once.
#[derive(Clone, Debug)]
pub struct Frames {
    /// `[3, t, h, w]`, any float dtype.
    pixels: Tensor,
    range: ValueRange,
}

impl Frames {
    /// Takes a video `[3, t, h, w]` or an image `[3, h, w]` of any float dtype.
    pub fn new(pixels: &Tensor, range: ValueRange) -> Result<Self, MediaError> {
        let pixels = match pixels.dims() {
            [3, _, _] => pixels.unsqueeze(1)?,
            [3, _, _, _] => pixels.clone(),
            other => return Err(MediaError::Shape { got: other.to_vec() }),
        };
        Ok(Self { pixels, range })
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.pixels.dims().get(1).copied().unwrap_or(0)
    }

    /// Whether there are no frames.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size and length of these frames shown at `fps` frames per second.
    pub fn shape(&self, fps: f64) -> Result<VideoShape, MediaError> {
        let (_, frames, height, width) = self.pixels.dims4()?;
        Ok(VideoShape { width: width as u32, height: height as u32, frames, fps })
    }

    /// Frame `index`, from 0. NaN is an error: it would be written as black and hide that the run went wrong.
    pub fn get(&self, index: usize) -> Result<RgbImage, MediaError> {
        let (_, _, height, width) = self.pixels.dims4()?;
        #[expect(clippy::disallowed_methods, reason = "a picture leaves the device")]
        let values = self
            .pixels
            .narrow(1, index, 1)?
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .squeeze(1)?
            .permute((1, 2, 0))?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let count = values.iter().filter(|v| v.is_nan()).count();
        if count > 0 {
            return Err(MediaError::NotANumber { frame: index, count });
        }
        let levels = values.into_iter().map(|v| self.range.to_level(v)).collect();
        RgbImage::from_raw(width as u32, height as u32, levels)
            .ok_or_else(|| MediaError::Shape { got: self.pixels.dims().to_vec() })
    }

    /// All frames in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<RgbImage, MediaError>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels printed by `((torch.tensor(v) * 0.5 + 0.5).clamp(0, 1).numpy() * 255).round().astype("uint8")`,
    /// the expressions of `VaeImageProcessor`, in torch 2.11 and `NumPy` 2.
    #[test]
    fn levels_are_those_of_diffusers() {
        let signed = [
            (-1.5, 0),
            (-1.0, 0),
            (-0.996, 1),
            (-0.995, 1),
            (-0.5, 64),
            (-0.25, 96),
            (0.0, 128),
            (0.001, 128),
            (0.25, 159),
            (0.5, 191),
            (0.996, 254),
            (0.997, 255),
            (1.0, 255),
            (7.0, 255),
        ];
        for (value, level) in signed {
            assert_eq!(ValueRange::Signed.to_level(value), level, "{value}");
        }
        // 0.1, 0.3, 0.5 and 0.7 map to 25.5, 76.5, 127.5 and 178.5 in f32: ties go up or down to the even
        // level.
        for (value, level) in [(0.0, 0), (0.1, 26), (0.5, 128), (0.3, 76), (0.7, 178), (1.0, 255), (-3.0, 0)]
        {
            assert_eq!(ValueRange::Unit.to_level(value), level, "{value}");
        }
    }

    #[test]
    fn channels_and_frames_keep_their_places() {
        // Value = level / 255 with level = 100 c + 10 t + 4 y + x, different at every position.
        let (frames, height, width) = (3, 2, 4);
        let level = |c: usize, t: usize, y: usize, x: usize| 100 * c + 10 * t + 4 * y + x;
        let mut values = Vec::new();
        for c in 0..3 {
            for t in 0..frames {
                for y in 0..height {
                    values.extend((0..width).map(|x| level(c, t, y, x) as f32 / 255.0));
                }
            }
        }
        let tensor = Tensor::from_vec(values, (3, frames, height, width), &Device::Cpu).unwrap();
        let video = Frames::new(&tensor, ValueRange::Unit).unwrap();
        assert_eq!(video.shape(16.0).unwrap(), VideoShape { width: 4, height: 2, frames: 3, fps: 16.0 });
        for (t, frame) in video.iter().enumerate() {
            for (x, y, pixel) in frame.unwrap().enumerate_pixels() {
                let expected: [usize; 3] = std::array::from_fn(|c| level(c, t, y as usize, x as usize));
                assert_eq!(pixel.0.map(usize::from), expected);
            }
        }
        let image = tensor.narrow(1, 1, 1).unwrap().squeeze(1).unwrap();
        let image = Frames::new(&image, ValueRange::Unit).unwrap();
        assert_eq!((image.len(), image.get(0).unwrap()), (1, video.get(1).unwrap()));
    }

    #[test]
    fn half_precision_is_taken_and_nan_and_other_shapes_are_not() {
        let half = Tensor::full(0.5f32, (3, 1, 2, 2), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
        assert_eq!(Frames::new(&half, ValueRange::Signed).unwrap().get(0).unwrap().as_raw(), &[191; 12]);

        let nan = Tensor::full(f32::NAN, (3, 2, 2), &Device::Cpu).unwrap();
        let text = Frames::new(&nan, ValueRange::Unit).unwrap().get(0).unwrap_err().to_string();
        assert_eq!(text, "frame 0 holds 12 values that are not numbers");

        let batch = Tensor::zeros((1, 3, 2, 2, 2), DType::F32, &Device::Cpu).unwrap();
        let text = Frames::new(&batch, ValueRange::Unit).unwrap_err().to_string();
        assert_eq!(text, "expected frames as [3, t, h, w] or an image as [3, h, w], got [1, 3, 2, 2, 2]");
    }
}
