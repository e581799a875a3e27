//! From pictures to image embeddings.

use candle_core::{Device, Tensor};

use crate::{
    checkpoint::{CheckpointError, Folder, WeightDtype},
    clip::{ClipImageProcessor, ClipVisionEncoder},
    image::{Picture, PictureError},
};

/// Image processor and image encoder of a Wan 2.1 image-to-video model.
#[derive(Clone, Debug)]
pub struct WanImageEncoder {
    processor: ClipImageProcessor,
    encoder: ClipVisionEncoder,
    device: Device,
}

impl WanImageEncoder {
    /// Reads the folders `image_processor` and `image_encoder` of a model; without the first, uses the
    /// published processor.
    ///
    /// # Errors
    /// Any fault in the files; a processor whose output size differs from the encoder's input size.
    pub fn load(model: &Folder, device: &Device, dtype: WeightDtype) -> Result<Self, CheckpointError> {
        const PROCESSOR: &str = "preprocessor_config.json";
        let folder = model.sub("image_processor");
        let processor = if folder.exists(PROCESSOR) {
            ClipImageProcessor::read(&folder)?
        } else {
            ClipImageProcessor::default()
        };
        let encoder = ClipVisionEncoder::open(&model.sub("image_encoder"), device, dtype)?;
        Self::new(processor, encoder, &folder.describe_file(PROCESSOR), device)
    }

    /// From its parts; messages call the processor's file `place`.
    ///
    /// # Errors
    /// A processor whose output size differs from the encoder's input size.
    pub fn new(
        processor: ClipImageProcessor,
        encoder: ClipVisionEncoder,
        place: &str,
        device: &Device,
    ) -> Result<Self, CheckpointError> {
        let (size, (width, height)) = (encoder.config().image_size, processor.crop());
        if (width, height) != (size, size) {
            let reason = format!(
                "crop_size is {height} x {width}, image_size of the image encoder is {size}: the folders are of \
                 different models"
            );
            return Err(CheckpointError::BadConfig { file: place.to_owned(), reason });
        }
        Ok(Self { processor, encoder, device: device.clone() })
    }

    /// The encoder.
    pub fn encoder(&self) -> &ClipVisionEncoder {
        &self.encoder
    }

    /// Embeddings of pictures, f32 `[pictures, tokens, image_dim]`: the first frame, or the first and last
    /// frame in this order.
    ///
    /// Equal to `WanImageToVideoPipeline.encode_image` of diffusers 0.42.1.
    pub fn encode(&self, pictures: &[&Picture]) -> Result<Tensor, PictureError> {
        let pixels: Vec<Tensor> = pictures
            .iter()
            .map(|picture| self.processor.pixel_values(picture, &self.device))
            .collect::<Result<_, _>>()?;
        Ok(self.encoder.forward(&Tensor::cat(&pixels, 0)?)?)
    }
}
