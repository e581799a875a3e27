//! FLUX.2 klein: distilled to a few steps, and the base model that it was distilled from.

use candle_core::Device;
use magcache_core::ModelMeta;

use super::generation::{Family, ImageUse, Loaded, Named, Prompt, needed};
use crate::{
    checkpoint::{Folder, WeightDtype, Weights},
    flux::{
        Flux2Config, Flux2TextEncoder, Flux2Transformer, FluxGuidance,
        flux2::{self, meta},
        positions,
    },
    image::{Filter, Picture},
    pipeline::{
        Defaults, LoadOptions, Phase, PipelineError, Request, Result, SamplingOption, still, text_phase,
        truncated,
    },
    sampler::{self, SchedulerConfig},
    text::{Qwen3Config, TokenizerDefaults},
};

/// Pixels of a reference picture; larger ones are scaled down.
const REFERENCE_AREA: usize = 1024 * 1024;

/// The shortest side of a reference picture, in pixels, and the largest ratio of its sides. Source:
/// `Flux2ImageProcessor` of diffusers 0.42.1.
const REFERENCE_SIDE: usize = 64;
const REFERENCE_SHAPE: usize = 8;

#[derive(Debug)]
pub(super) struct Flux2 {
    folder: Folder,
    config: Flux2Config,
    distilled: bool,
}

impl Flux2 {
    /// `folder` contains the text encoder and its tokenizer.
    ///
    /// # Errors
    /// FLUX.2 dev, whose text encoder this crate does not have.
    pub(super) fn open(folder: Folder, config: Flux2Config, distilled: bool) -> Result<Self> {
        if config.guidance_embeds {
            let message = format!("{}: FLUX.2 dev reads its prompts with Mistral Small", folder.describe());
            let hint = "that text encoder is not part of this build; its transformer can be used as a library, and \
                        FLUX.2 klein runs";
            return Err(PipelineError::request(message, hint));
        }
        needed(&folder, "text_encoder")?;
        Ok(Self { folder, config, distilled })
    }
}

impl Family for Flux2 {
    fn meta(&self) -> ModelMeta {
        ModelMeta { guided: !self.distilled, ..meta::of(&self.config) }
    }

    fn defaults(&self) -> Defaults {
        let (steps, guidance) = if self.distilled { (4, 1.0) } else { (50, 4.0) };
        still::defaults(steps, guidance)
    }

    fn takes(&self) -> Vec<SamplingOption> {
        use SamplingOption as Takes;
        vec![Takes::sampler, Takes::flow_shift, Takes::image, Takes::strength]
    }

    fn text_tokens(&self) -> usize {
        TokenizerDefaults::QWEN3.max_length
    }

    fn guidance(&self, request: &Request) -> Result<FluxGuidance> {
        let scale = request.guidance;
        if self.distilled && scale > 1.0 {
            let message = format!("guidance is {scale}, but this model is distilled to run without");
            return Err(PipelineError::request(message, "`guidance = 1`; the base model takes guidance"));
        }
        Ok(FluxGuidance { embedded: None, scale })
    }

    fn image_use(&self, request: &Request) -> ImageUse {
        if request.strength.is_some() { ImageUse::Start } else { ImageUse::Reference }
    }

    fn size_like(&self, picture: &Picture, _: usize, multiple: usize) -> [usize; 2] {
        let round = |side: usize| (side / multiple).max(1) * multiple;
        fitting(picture).map(round)
    }

    fn check_reference(&self, picture: &Picture) -> Result<()> {
        let (width, height) = (picture.width(), picture.height());
        let (short, long) = (width.min(height), width.max(height));
        if short < REFERENCE_SIDE || long > REFERENCE_SHAPE * short {
            let message = format!(
                "the image has {width}x{height} pixels: this model looks at images of at least {REFERENCE_SIDE} pixels a \
                 side, one at most {REFERENCE_SHAPE} times as long as the other"
            );
            return Err(PipelineError::request(
                message,
                "enlarge or cut it; with `strength = 0.6` it can have any size",
            ));
        }
        Ok(())
    }

    fn reference(&self, picture: &Picture, multiple: usize) -> Result<Picture> {
        let [width, height] = fitting(picture);
        let round = |side: usize| (side / multiple).max(1) * multiple;
        let cut = |picture: &Picture| picture.center_crop(round(width), round(height));
        let cut = if [width, height] == [picture.width(), picture.height()] {
            cut(picture)
        } else {
            picture.resize(width, height, Filter::Lanczos).and_then(|picture| cut(&picture))
        };
        cut.map_err(|e| PipelineError::part("image", e))
    }

    fn encoders(&self, device: &Device, dtype: WeightDtype) -> Result<Vec<Weights>> {
        Ok(vec![Weights::open(&self.folder.sub("text_encoder"), device, dtype)?])
    }

    fn text_phase(&self, options: &LoadOptions) -> Result<Phase> {
        let config = Qwen3Config::read(&self.folder.sub("text_encoder"))?;
        let widths = [config.hidden_size, config.intermediate_size];
        let encoders = self.encoders(&options.device, options.dtype)?;
        Ok(text_phase(&encoders, self.text_tokens(), widths, config.num_attention_heads))
    }

    fn schedule(&self, config: &SchedulerConfig, steps: usize, tokens: usize) -> sampler::Request {
        flux2::schedule(config, steps, tokens)
    }

    fn encode(
        &self,
        options: &LoadOptions,
        prompts: &[Named<'_>],
        notes: &mut Vec<String>,
    ) -> Result<Vec<Prompt>> {
        let encoder = Flux2TextEncoder::load(&self.folder, &options.device, options.dtype)?;
        let one = |prompt: &Named<'_>| -> Result<Prompt> {
            let tokens = encoder.tokenize(prompt.text).map_err(|e| PipelineError::part("prompt", e))?;
            notes.extend(truncated(prompt.what, encoder.max_length(), tokens.truncated));
            let text =
                encoder.encode_tokens(&[tokens]).map_err(|e| PipelineError::part("text encoder", e))?;
            Ok(Prompt { text, pooled: None })
        };
        prompts.iter().map(one).collect()
    }

    fn load(
        &self,
        weights: &Weights,
        prompts: &[Prompt],
        grid: [usize; 2],
        references: &[[usize; 2]],
        options: &LoadOptions,
    ) -> Result<Loaded> {
        let network = Flux2Transformer::load_in(weights, self.config.clone(), &options.residence()?)?;
        let mut image = positions::latent_ids(grid);
        image.extend(positions::reference_ids(references));
        Loaded::new(network, prompts, &positions::text_ids(self.text_tokens()), &image, options.plane())
    }
}

/// Width and height of a picture, scaled down to the largest area of a reference. Source:
/// `Flux2ImageProcessor` of diffusers 0.42.1.
fn fitting(picture: &Picture) -> [usize; 2] {
    let sides = [picture.width(), picture.height()];
    let area = sides[0] * sides[1];
    if area <= REFERENCE_AREA {
        return sides;
    }
    let scale = (REFERENCE_AREA as f64 / area as f64).sqrt();
    sides.map(|side| ((side as f64 * scale) as usize).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_that_klein_was_not_trained_to_look_at_are_refused() {
        let family =
            Flux2 { folder: Folder::embedded("none", &[]), config: Flux2Config::default(), distilled: true };
        let check = |[width, height]: [usize; 2]| {
            let picture = Picture::from_rgb8(width, height, vec![0; 3 * width * height]).expect("its bytes");
            family.check_reference(&picture)
        };
        for size in [[63, 64], [64, 63], [64, 513], [600, 70]] {
            let message = check(size).expect_err("no such shape").to_string();
            assert!(message.contains(&format!("{}x{}", size[0], size[1])), "{message}");
        }
        check([64, 512]).expect("eight times as long");
    }
}
