//! Pictures and pose frames at the size of the video.

use candle_core::{Device, Tensor};

use crate::image::{Filter, Picture, PictureError};

/// How a picture becomes one of the video's size: its shorter side is scaled to the shorter one of the video,
/// then the centre is cropped; where a side is too short, it is padded. `Resize` and `CenterCrop` of
/// torchvision (0.26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Height and width of the video.
    pub size: (usize, usize),
    /// Height and width after scaling.
    pub resized: (usize, usize),
    /// Padding left, above, right and below; an odd pixel comes right or below.
    pub padding: [usize; 4],
    /// Rows and columns that are cropped off above and left, of the padded picture.
    pub crop: (usize, usize),
}

impl Fit {
    /// For a picture of `height` x `width` pixels and a video of `size`, height and width.
    pub fn new(height: usize, width: usize, size: (usize, usize)) -> Self {
        let short = size.0.min(size.1);
        let long = |long: usize, side: usize| short * long / side.max(1);
        let resized =
            if height <= width { (short, long(width, height)) } else { (long(height, width), short) };
        let (rows, columns) = (size.0.saturating_sub(resized.0), size.1.saturating_sub(resized.1));
        let padding = [columns / 2, rows / 2, columns.div_ceil(2), rows.div_ceil(2)];
        // Half a pixel goes to the even neighbour.
        let margin =
            |side: usize, kept: usize| (side.saturating_sub(kept) as f64 / 2.0).round_ties_even() as usize;
        let crop = (margin(resized.0, size.0), margin(resized.1, size.1));
        Self { size, resized, padding, crop }
    }

    /// The picture at the video's size; padding is black. Scaled with Pillow's bilinear filter.
    ///
    /// # Errors
    /// [`PictureError::Target`] for a size that no picture can have, or a picture so narrow that its longer
    /// side would exceed the largest.
    pub fn picture(&self, picture: &Picture) -> Result<Picture, PictureError> {
        let (height, width) = self.resized;
        let scaled = picture.resize(width, height, Filter::Bilinear)?;
        let pixels = scaled.rgb8().as_chunks::<3>().0;
        let rgb = self.placed().flat_map(|place| place.map_or([0; 3], |place| pixels[place]));
        Picture::from_rgb8(self.size.1, self.size.0, rgb.collect())
    }

    /// A pose frame at the video's size, f32 `[1, 3, height, width]` in -1..=1; padding is 0, grey. Scaled
    /// like [`Self::picture`], without rounding to bytes.
    ///
    /// # Errors
    /// As [`Self::picture`].
    pub fn frame(&self, frame: &Picture, device: &Device) -> Result<Tensor, PictureError> {
        let (height, width) = self.resized;
        let pixels = frame.resize_f32(width, height, Filter::Bilinear)?;
        let value =
            |place: Option<usize>, c: usize| place.map_or(0.0, |place| pixels[place][c] / 255.0 * 2.0 - 1.0);
        let values: Vec<f32> = (0..3)
            .flat_map(|c| self.placed().map(move |place| (place, c)))
            .map(|(p, c)| value(p, c))
            .collect();
        Ok(Tensor::from_vec(values, (1, 3, self.size.0, self.size.1), device)?)
    }

    /// For every pixel of the video, the one of the scaled picture; `None` in the padding.
    fn placed(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        let Self { size, resized, padding: [left, above, ..], crop } = *self;
        let inside = move |at: usize, cropped: usize, padded: usize, length: usize| {
            (at + cropped).checked_sub(padded).filter(|at| *at < length)
        };
        (0..size.0).flat_map(move |y| {
            let row = inside(y, crop.0, above, resized.0);
            (0..size.1).map(move |x| Some(row? * resized.1 + inside(x, crop.1, left, resized.1)?))
        })
    }
}
