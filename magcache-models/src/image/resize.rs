//! Resizing of pictures, as in Pillow.

use candle_core::{Device, Tensor};
use fast_image_resize::{
    FilterType, ResizeAlg, ResizeOptions, Resizer,
    images::{TypedImage, TypedImageRef},
    pixels::F32x3,
};

use super::{MAX_SIDE, Picture, PictureError};

/// How the pixels of the old picture are weighted into one of the new. Each is the filter of that name in
/// Pillow, widened when a picture is scaled down; results differ from Pillow's by at most 1 of 255.
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
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(PictureError::Target { width, height });
        }
        let own = (self.width(), self.height());
        let part = [0.0, 0.0, own.0 as f64, own.1 as f64];
        convolve(self.rgb8(), own, (width, height), filter, part)
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
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(PictureError::Target { width, height });
        }
        let mut columns = Vec::with_capacity(3 * width * self.height());
        for strip in self.rgb8().chunks(3 * self.width() * STRIP) {
            let rows = strip.len() / (3 * self.width());
            let part = [left, 0.0, part_width, rows as f64];
            columns.extend(bytes(&convolve(strip, (self.width(), rows), (width, rows), filter, part)?));
        }
        let part = [0.0, top, width as f64, part_height];
        let rgb = convolve(&columns, (width, self.height()), (width, height), filter, part)?;
        Self::from_rgb8(width, height, bytes(&rgb).collect())
    }
}

/// Rows resized in width at a time, which limits the memory for the f32 values of a large photo.
const STRIP: usize = 64;

/// Scales the part `[left, top, width, height]` of RGB bytes to another size, in f32. The
/// library's own arithmetic on bytes is 1 of 255 off in places, which the second pass would magnify.
fn convolve(
    rgb: &[u8],
    (from_width, from_height): (usize, usize),
    (width, height): (usize, usize),
    filter: Filter,
    [left, top, part_width, part_height]: [f64; 4],
) -> Result<Vec<[f32; 3]>, PictureError> {
    let filter = match filter {
        Filter::Bilinear => FilterType::Bilinear,
        Filter::Bicubic => FilterType::CatmullRom,
        Filter::Lanczos => FilterType::Lanczos3,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).crop(
        left,
        top,
        part_width,
        part_height,
    );
    let (pixels, _) = rgb.as_chunks::<3>();
    let pixels: Vec<F32x3> = pixels.iter().map(|pixel| F32x3::new(pixel.map(f32::from))).collect();
    let mut to = TypedImage::<F32x3>::new(width as u32, height as u32);
    let from = TypedImageRef::new(from_width as u32, from_height as u32, &pixels);
    let scaled = from.is_ok_and(|from| Resizer::new().resize_typed(&from, &mut to, &options).is_ok());
    if !scaled {
        return Err(PictureError::Target { width, height });
    }
    Ok(to.pixels().iter().map(|pixel| pixel.0).collect())
}

/// Rounded; the conversion clips the overshoot.
fn bytes(pixels: &[[f32; 3]]) -> impl Iterator<Item = u8> {
    pixels.iter().flat_map(|pixel| pixel.map(|x| (x + 0.5).floor() as u8))
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
