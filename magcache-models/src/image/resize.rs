//! Resizing of pictures, as in Pillow.

use candle_core::{Device, Tensor};

use super::{
    MAX_SIDE, Picture, PictureError,
    resample::{Axis, resample},
};

/// How the pixels of the old picture are weighted into one of the new. Each is the filter of that name in
/// Pillow, widened when a picture is scaled down; bytes come out as Pillow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A triangle.
    Bilinear,
    /// Catmull-Rom's cubic, `a = -0.5`.
    Bicubic,
    /// Three lobes of a windowed sinc.
    Lanczos,
}

impl Picture {
    /// Stretched or squeezed to `width` x `height`.
    ///
    /// # Errors
    /// [`PictureError::Target`] when a side is 0 or above [`MAX_SIDE`].
    pub fn resize(&self, width: usize, height: usize, filter: Filter) -> Result<Self, PictureError> {
        self.scaled(width, height, filter, [0.0, 0.0, self.width() as f64, self.height() as f64])
    }

    /// [`Self::resize`] without rounding to bytes, row by row.
    pub(crate) fn resize_f32(
        &self,
        width: usize,
        height: usize,
        filter: Filter,
    ) -> Result<Vec<[f32; 3]>, PictureError> {
        sides(width, height)?;
        let pixels: Vec<[f32; 3]> =
            self.rgb8().as_chunks::<3>().0.iter().map(|pixel| pixel.map(f32::from)).collect();
        let (columns, rows) = (Axis::whole(self.width(), width), Axis::whole(self.height(), height));
        Ok(resample(&pixels, columns, rows, filter))
    }

    /// Scaled by one factor until it covers `width` x `height`, then cropped around the centre. Lanczos
    /// filter; equal to Pillow's `ImageOps.fit`.
    ///
    /// For a last frame of another shape than the first. The published first-and-last-frame examples of Wan
    /// 2.1 (and `WanImageCropResizeStep` of diffusers 0.42.1) mean to do this, but crop without scaling and
    /// with width and height swapped.
    pub fn cover(&self, width: usize, height: usize) -> Result<Self, PictureError> {
        let (own_width, own_height) = (self.width() as f64, self.height() as f64);
        let aspect_ratio = width as f64 / height.max(1) as f64;
        let part_width = own_width.min(own_height * aspect_ratio);
        let part_height = own_height.min(own_width / aspect_ratio.max(f64::MIN_POSITIVE));
        let (left, top) = ((own_width - part_width) / 2.0, (own_height - part_height) / 2.0);
        self.scaled(width, height, Filter::Lanczos, [left, top, part_width, part_height])
    }

    /// The `width` x `height` pixels around the centre, which lies half a pixel up and left if the margins
    /// are odd.
    ///
    /// # Errors
    /// [`PictureError::Target`] when the picture is smaller or a side is 0.
    pub fn center_crop(&self, width: usize, height: usize) -> Result<Self, PictureError> {
        let margins = (self.width().checked_sub(width), self.height().checked_sub(height));
        let (Some(columns), Some(rows)) = margins else {
            return Err(PictureError::Target { width, height });
        };
        let lines = self.rgb8().chunks_exact(3 * self.width()).skip(rows / 2).take(height);
        let part = 3 * (columns / 2)..3 * (columns / 2 + width);
        let rgb = lines.flat_map(|line| line.get(part.clone()).unwrap_or_default()).copied().collect();
        Self::from_rgb8(width, height, rgb)
    }

    /// The input of an autoencoder: [resized](Self::resize) with the Lanczos filter, f32
    /// `[1, 3, height, width]` in -1..=1. Equal to the `preprocess` of diffusers' `VideoProcessor` and
    /// `VaeImageProcessor` (0.42.1).
    pub fn pixels(&self, width: usize, height: usize, device: &Device) -> Result<Tensor, PictureError> {
        let picture = self.resize(width, height, Filter::Lanczos)?;
        Ok(picture.channels_first(|_, value| f32::from(value) / 255.0 * 2.0 - 1.0, device)?)
    }

    /// f32 `[1, 3, height, width]` of `value(channel, pixel)`.
    pub(crate) fn channels_first(
        &self,
        value: impl Fn(usize, u8) -> f32,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let channel = |c: usize| self.rgb8().iter().skip(c).step_by(3).map(move |x| (c, *x));
        let values: Vec<f32> = (0..3).flat_map(channel).map(|(c, x)| value(c, x)).collect();
        Tensor::from_vec(values, (1, 3, self.height(), self.width()), device)
    }

    /// The part `[left, top, width, height]` of the picture at another size.
    ///
    /// Columns first, as in Pillow: between the passes values are rounded and clipped to 0..=255, and how
    /// much overshoot of the sharper filters is clipped there depends on the order, by 20 of 255 around hard
    /// edges. Pillow 13 starts with the rows if they shrink much more than the columns; this does not.
    fn scaled(
        &self,
        width: usize,
        height: usize,
        filter: Filter,
        [left, top, part_width, part_height]: [f64; 4],
    ) -> Result<Self, PictureError> {
        sides(width, height)?;
        let part = |start: f64, length: f64| (start as f32, (start + length) as f32);
        let columns = Axis { length: self.width(), part: part(left, part_width), new: width };
        let rows = Axis { length: self.height(), part: part(top, part_height), new: height };
        let pixels = resample(self.rgb8().as_chunks::<3>().0, columns, rows, filter);
        Self::from_rgb8(width, height, pixels.into_flattened())
    }
}

fn sides(width: usize, height: usize) -> Result<(), PictureError> {
    let possible = (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height);
    if possible { Ok(()) } else { Err(PictureError::Target { width, height }) }
}

/// Width and height of a video with the shape of a picture: about `max_area` pixels, each side rounded down
/// to a multiple of `multiple`, the product of the autoencoder's spatial scale and the transformer's patch
/// (16 for Wan 2.1), and at least one such multiple.
///
/// The rule of the published Wan examples, of 480 x 832 or 720 x 1280 pixels.
pub fn area_size(picture: &Picture, max_area: usize, multiple: usize) -> (usize, usize) {
    let multiple = multiple.max(1);
    let aspect_ratio = picture.height() as f64 / picture.width() as f64;
    let side = |squared: f64| {
        let side = squared.sqrt().round_ties_even() as usize;
        (side / multiple * multiple).max(multiple)
    };
    (side(max_area as f64 / aspect_ratio), side(max_area as f64 * aspect_ratio))
}
