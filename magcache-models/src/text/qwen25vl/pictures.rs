//! Pictures as the vision tower reads them.
//!
//! Source: `Qwen2VLImageProcessor` of transformers 5.23.0.

use candle_core::{Device, Tensor};

use super::VisionConfig;
use crate::image::{Filter, Picture, PictureError};

/// Mean and deviation of colours, those of CLIP.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Pixels of a picture, at least and at most.
const PIXELS: [f64; 2] = [56.0 * 56.0, 12_845_056.0];

/// Width and height at which a picture of this size is read: multiples of a token's side, within bounds.
pub fn processed_size(config: &VisionConfig, [width, height]: [usize; 2]) -> [usize; 2] {
    let side = config.token_side() as f64;
    let sides = [width, height].map(|side| side.max(1) as f64);
    let rounded = sides.map(|length| ((length / side).round_ties_even() * side).max(side));
    let (area, pixels) = (sides[0] * sides[1], rounded[0] * rounded[1]);
    let [least, most] = PIXELS;
    let all = if pixels > most {
        let by = (area / most).sqrt();
        sides.map(|length| ((length / by / side).floor() * side).max(side))
    } else if pixels < least {
        let by = (least / area).sqrt();
        sides.map(|length| (length * by / side).ceil() * side)
    } else {
        rounded
    };
    all.map(|length| length as usize)
}

/// A picture at the size at which it is read.
///
/// # Errors
/// A picture that cannot be resized.
pub fn processed(config: &VisionConfig, picture: &Picture) -> Result<Picture, PictureError> {
    let own = [picture.width(), picture.height()];
    match processed_size(config, own) {
        size if size == own => Ok(picture.clone()),
        [width, height] => picture.resize(width, height, Filter::Bicubic),
    }
}

/// The patches of a picture, f32 `[patches, channels * frames * patch_size^2]` in squares of
/// `spatial_merge_size` by as many, and their rows and columns. Pixels beyond the last whole token are left
/// out.
///
/// # Errors
/// A picture smaller than a token.
pub fn picture_patches(
    config: &VisionConfig,
    picture: &Picture,
    device: &Device,
) -> Result<(Tensor, [usize; 2]), PictureError> {
    let whole = |side: usize| side / config.token_side() * config.token_side();
    let [width, height] = [picture.width(), picture.height()].map(whole);
    let picture = picture.center_crop(width, height)?;
    let (side, merge) = (config.patch_size, config.spatial_merge_size);
    let [rows, columns] = [height / side, width / side];
    let colour = |c: usize, x: u8| {
        let of = |all: [f32; 3]| all.get(c).copied().unwrap_or(1.0);
        (f32::from(x) / 255.0 - of(MEAN)) / of(STD)
    };
    let pixels = picture.channels_first(colour, device)?;
    let patches = pixels
        .reshape(&[3, rows / merge, merge, side, columns / merge, merge, side][..])?
        .permute([1, 4, 2, 5, 0, 3, 6].as_slice())?
        .reshape((rows * columns, 3, 1, side * side))?
        .repeat((1, 1, config.temporal_patch_size, 1))?
        .reshape((rows * columns, config.patch_channels()))?;
    Ok((patches, [rows, columns]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `smart_resize` of transformers 5.23.0.
    #[test]
    fn sizes_are_those_of_the_processor() {
        let config = VisionConfig::default();
        for (size, want) in [
            ([384, 384], [392, 392]),
            ([512, 288], [504, 280]),
            ([1024, 1024], [1036, 1036]),
            ([30, 30], [56, 56]),
            ([10_000, 2_000], [8008, 1596]),
        ] {
            assert_eq!(processed_size(&config, size), want, "{size:?}");
        }
    }
}
