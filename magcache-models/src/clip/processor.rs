//! `preprocessor_config.json`: pictures to the input of the encoder.

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    checkpoint::{CheckpointError, Folder},
    image::{Filter, MAX_SIDE, Picture, PictureError},
};

/// `CLIPImageProcessor` of transformers (5.23.0, its Pillow backend): scales the shorter edge to a given
/// length, crops the centre and normalises the channels.
///
/// The torchvision backend rounds the scaled picture differently; both stay within 1 of 255 of this.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipImageProcessor {
    shortest_edge: usize,
    crop_width: usize,
    crop_height: usize,
    filter: Filter,
    rescale_factor: f64,
    image_mean: [f64; 3],
    image_std: [f64; 3],
}

impl Default for ClipImageProcessor {
    /// The values of the Wan 2.1 folders, which are those of `OpenAI`'s CLIP.
    fn default() -> Self {
        Self {
            shortest_edge: 224,
            crop_width: 224,
            crop_height: 224,
            filter: Filter::Bicubic,
            rescale_factor: 1.0 / 255.0,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
        }
    }
}

const FILE: &str = "preprocessor_config.json";

/// The file as transformers writes it; older files have single numbers for the sizes.
#[derive(Deserialize)]
struct File {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    size: Option<Size>,
    crop_size: Option<Size>,
    resample: Option<u32>,
    rescale_factor: Option<f64>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
    do_resize: Option<bool>,
    do_center_crop: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Size {
    Number(usize),
    Shortest { shortest_edge: usize },
    Both { height: usize, width: usize },
}

impl ClipImageProcessor {
    /// Reads `preprocessor_config.json` of an `image_processor` folder. Missing keys have the defaults of
    /// transformers.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`] for another processor, [`CheckpointError::BadConfig`] for steps
    /// that are switched off or values that are not supported.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        Self::from_value(&folder.read_json(FILE)?, &folder.describe_file(FILE))
    }

    /// From the values of a `preprocessor_config.json`, whatever their source; messages call them `place`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_value(value: &Value, place: &str) -> Result<Self, CheckpointError> {
        let place = place.to_owned();
        let file = File::deserialize(value)
            .map_err(|source| CheckpointError::Json { file: place.clone(), source })?;
        let class = file.image_processor_type.clone().or_else(|| file.feature_extractor_type.clone());
        if let Some(found) = class
            && !found.starts_with("CLIPImageProcessor")
            && found != "CLIPFeatureExtractor"
        {
            return Err(CheckpointError::WrongArchitecture {
                file: place,
                expected: "CLIPImageProcessor".into(),
                found,
            });
        }
        file.checked().map_err(|reason| CheckpointError::BadConfig { file: place, reason })
    }

    /// Columns and rows of the encoder's input.
    pub fn crop(&self) -> (usize, usize) {
        (self.crop_width, self.crop_height)
    }

    /// A picture to `pixel_values`, f32 `[1, 3, crop height, crop width]`.
    ///
    /// # Errors
    /// [`PictureError::Target`] for a picture so narrow that its longer edge would exceed the largest side.
    pub fn pixel_values(&self, picture: &Picture, device: &Device) -> Result<Tensor, PictureError> {
        let (width, height) = (picture.width(), picture.height());
        // Rounded down, as in the reference.
        let scaled = |side: usize| side * self.shortest_edge / width.min(height).max(1);
        let picture = picture
            .resize(scaled(width), scaled(height), self.filter)?
            .center_crop(self.crop_width, self.crop_height)?;
        let table: [[f32; 256]; 3] = std::array::from_fn(|c| std::array::from_fn(|x| self.normalize(c, x)));
        let value = |c: usize, x: u8| table.get(c).map_or(0.0, |row| row[usize::from(x)]);
        Ok(picture.channels_first(value, device)?)
    }

    /// Rounds to f32 where the reference does.
    fn normalize(&self, channel: usize, value: usize) -> f32 {
        let rescaled = (value as f64 * self.rescale_factor) as f32;
        let (mean, std) = (self.image_mean[channel] as f32, self.image_std[channel] as f32);
        (rescaled - mean) / std
    }
}

impl File {
    fn checked(self) -> Result<ClipImageProcessor, String> {
        let steps = [
            ("do_resize", self.do_resize),
            ("do_center_crop", self.do_center_crop),
            ("do_rescale", self.do_rescale),
            ("do_normalize", self.do_normalize),
        ];
        if let Some((key, _)) = steps.into_iter().find(|(_, on)| *on == Some(false)) {
            return Err(format!("{key} is false, supported is true"));
        }
        let default = ClipImageProcessor::default();
        let shortest_edge = match self.size {
            None => default.shortest_edge,
            Some(Size::Number(size) | Size::Shortest { shortest_edge: size }) => size,
            Some(Size::Both { height, width }) => {
                return Err(format!(
                    "size is {height} x {width}, supported is {{\"shortest_edge\": {}}}",
                    height.min(width)
                ));
            }
        };
        let (crop_height, crop_width) = match self.crop_size {
            None => (default.crop_height, default.crop_width),
            Some(Size::Number(size) | Size::Shortest { shortest_edge: size }) => (size, size),
            Some(Size::Both { height, width }) => (height, width),
        };
        if !(1..=MAX_SIDE).contains(&shortest_edge) {
            return Err(format!("size is {shortest_edge}, expected 1 to {MAX_SIDE}"));
        }
        if crop_height.min(crop_width) == 0 || crop_height.max(crop_width) > shortest_edge {
            return Err(format!(
                "crop_size is {crop_height} x {crop_width}, expected 1 to the shortest edge of {shortest_edge}"
            ));
        }
        let filter = match self.resample {
            None | Some(3) => Filter::Bicubic,
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            Some(other) => return Err(format!("resample is {other}, supported are 1, 2 and 3 of Pillow")),
        };
        let rescale_factor = self.rescale_factor.unwrap_or(default.rescale_factor);
        let image_mean = self.image_mean.unwrap_or(default.image_mean);
        let image_std = self.image_std.unwrap_or(default.image_std);
        if let Some(std) = image_std.iter().find(|std| !(std.is_finite() && **std > 0.0)) {
            return Err(format!("image_std contains {std}, expected positive numbers"));
        }
        if let Some(mean) = image_mean.iter().chain([&rescale_factor]).find(|value| !value.is_finite()) {
            return Err(format!("image_mean or rescale_factor contains {mean}"));
        }
        Ok(ClipImageProcessor {
            shortest_edge,
            crop_width,
            crop_height,
            filter,
            rescale_factor,
            image_mean,
            image_std,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<ClipImageProcessor, CheckpointError> {
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(root.path().join(FILE), json).expect("can be written");
        ClipImageProcessor::read(&Folder::open(root.path()).expect("exists"))
    }

    #[test]
    fn the_published_file_is_the_default() {
        let published = r#"{"crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_convert_rgb": true,
            "do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "CLIPImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 224}}"#;
        assert_eq!(read(published).expect("a valid file"), ClipImageProcessor::default());
        assert_eq!(read("{}").expect("a valid file"), ClipImageProcessor::default());
        let old = r#"{"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32, "resample": 2}"#;
        let old = read(old).expect("a valid file");
        assert_eq!((old.shortest_edge, old.crop(), old.filter), (40, (32, 32), Filter::Bilinear));
    }

    #[test]
    fn names_what_is_wrong() {
        for (json, part) in [
            (
                r#"{"image_processor_type": "SiglipImageProcessor"}"#,
                "\"SiglipImageProcessor\", expected \"CLIP",
            ),
            (r#"{"do_resize": false}"#, "do_resize is false"),
            (r#"{"size": {"height": 3, "width": 4}}"#, "size is 3 x 4"),
            (r#"{"size": 0}"#, "size is 0"),
            (r#"{"size": 99999}"#, "size is 99999"),
            (r#"{"crop_size": 225}"#, "crop_size is 225 x 225, expected 1 to the shortest edge of 224"),
            (r#"{"crop_size": 0}"#, "crop_size is 0 x 0"),
            (r#"{"resample": 0}"#, "resample is 0"),
            (r#"{"image_std": [1, 0, 1]}"#, "image_std contains 0"),
            (r#"{"image_mean": [1, 0]}"#, "cannot parse"),
        ] {
            let message = read(json).expect_err(json).to_string();
            assert!(message.contains(part) && message.contains(FILE), "{json}: {message}");
        }
    }
}
