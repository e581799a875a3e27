//! The sizes at which pictures are read and made when editing.
//!
//! Source: `calculate_dimensions` of diffusers 0.42.1.

use super::Edition;
use crate::image::Picture;

/// Sides are multiples of this.
const MULTIPLE: f64 = 32.0;

/// Pixels of a picture for the autoencoder, and of an output of its shape.
const AREA: f64 = 1024.0 * 1024.0;

/// Pixels of a picture for the text encoder, in editions that look at several.
const TEXT_AREA: f64 = 384.0 * 384.0;

/// Width and height for the autoencoder.
pub(super) fn for_latents(picture: &Picture) -> [usize; 2] {
    of_area(picture, AREA)
}

/// Width and height for the text encoder, whose processor brings them to multiples of its tokens.
pub(super) fn for_text(edition: Edition, picture: &Picture) -> [usize; 2] {
    of_area(picture, if edition == Edition::EditPlus { TEXT_AREA } else { AREA })
}

/// Width and height of about `area` pixels in the shape of a picture.
pub(super) fn of_area(picture: &Picture, area: f64) -> [usize; 2] {
    let ratio = picture.width() as f64 / picture.height() as f64;
    let width = (area * ratio).sqrt();
    [width, width / ratio].map(|side| ((side / MULTIPLE).round_ties_even().max(1.0) * MULTIPLE) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{VisionConfig, processed_size};

    /// The rows `edit_sizes` of the reference: picture, for the text encoder, its processor, the autoencoder.
    #[test]
    fn sizes_are_those_of_the_reference() {
        for (size, text, processed, latents) in [
            ([1024, 1024], [384, 384], [392, 392], [1024, 1024]),
            ([1920, 1080], [512, 288], [504, 280], [1376, 768]),
            ([1080, 1920], [288, 512], [280, 504], [768, 1376]),
        ] {
            let picture =
                Picture::from_rgb8(size[0], size[1], vec![0; 3 * size[0] * size[1]]).expect("bytes");
            assert_eq!(for_text(Edition::EditPlus, &picture), text);
            assert_eq!(processed_size(&VisionConfig::default(), text), processed);
            assert_eq!(for_latents(&picture), latents);
            assert_eq!(for_text(Edition::Edit, &picture), latents);
        }
    }
}
