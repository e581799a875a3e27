//! FLUX.1: dev, schnell and Kontext.

use candle_core::Device;
use magcache_core::ModelMeta;

use super::generation::{Family, ImageUse, Loaded, Named, Prompt};
use crate::{
    checkpoint::{Adapter, AdapterReport, WeightDtype, Weights},
    flux::{
        FluxConfig, FluxGuidance, FluxTextEncoder, FluxTransformer,
        flux1::{self, FluxTextParts, meta},
        positions,
    },
    image::{Filter, Picture, area_size},
    pipeline::{
        Defaults, LoadOptions, Phase, PipelineError, Request, Result, SamplingOption, adapters_of, still,
        text_phase, truncated, unknown_words,
    },
    sampler::{self, SchedulerConfig},
    text::TokenizerDefaults,
};

/// Tokens of T5 that schnell was trained to read.
const SCHNELL_TOKENS: usize = 256;

/// Widths of the pictures that Kontext was trained on; the heights are the same in reverse.
const KONTEXT_SIDES: [usize; 17] =
    [672, 688, 720, 752, 800, 832, 880, 944, 1024, 1104, 1184, 1248, 1328, 1392, 1456, 1504, 1568];

#[derive(Debug)]
pub(super) struct Flux1 {
    texts: FluxTextParts,
    config: FluxConfig,
    kontext: bool,
    text_tokens: usize,
}

impl Flux1 {
    pub(super) fn open(texts: FluxTextParts, config: FluxConfig, kontext: bool) -> Result<Self> {
        let most = if config.guidance_embeds { TokenizerDefaults::T5.max_length } else { SCHNELL_TOKENS };
        let text_tokens = texts.text_tokens()?.min(most);
        Ok(Self { texts, config, kontext, text_tokens })
    }
}

impl Family for Flux1 {
    fn meta(&self) -> ModelMeta {
        let meta = meta::of(&self.config);
        if !self.kontext {
            return meta;
        }
        // Kontext has its own curves, which come second for the architecture.
        let own = meta.profiles.iter().filter(|name| name.contains("kontext")).copied().collect::<Vec<_>>();
        ModelMeta { profiles: own.into(), ..meta }
    }

    fn defaults(&self) -> Defaults {
        let (steps, guidance) = match (self.config.guidance_embeds, self.kontext) {
            (false, _) => (4, 1.0),
            (true, false) => (28, 3.5),
            (true, true) => (28, 2.5),
        };
        still::defaults(steps, guidance)
    }

    fn takes(&self) -> Vec<SamplingOption> {
        use SamplingOption as Takes;
        vec![Takes::sampler, Takes::flow_shift, Takes::image, Takes::strength, Takes::true_cfg]
    }

    fn text_tokens(&self) -> usize {
        self.text_tokens
    }

    fn guidance(&self, request: &Request) -> Result<FluxGuidance> {
        let (guidance, scale) = (request.guidance, request.true_cfg.unwrap_or(1.0));
        if !self.config.guidance_embeds && guidance > 1.0 {
            let message = format!("guidance is {guidance}, but this model was trained without");
            let hint =
                format!("`guidance = 1`, or `true_cfg = {guidance}` to run a negative prompt beside it");
            return Err(PipelineError::request(message, hint));
        }
        Ok(FluxGuidance { embedded: self.config.guidance_embeds.then_some(guidance), scale })
    }

    fn image_use(&self, request: &Request) -> ImageUse {
        if self.kontext && request.strength.is_none() { ImageUse::Reference } else { ImageUse::Start }
    }

    fn size_like(&self, picture: &Picture, area: usize, multiple: usize) -> [usize; 2] {
        area_size(picture, area, multiple).into()
    }

    fn reference(&self, picture: &Picture, multiple: usize) -> Result<Picture> {
        let whole = |side: usize| (side / multiple).max(1) * multiple;
        // The reference compares the aspect ratio in whole tokens, which can differ for a small picture.
        let ratio = whole(picture.width()) as f64 / whole(picture.height()) as f64;
        let distance = |[w, h]: &[usize; 2]| (ratio - *w as f64 / *h as f64).abs();
        let sizes = KONTEXT_SIDES.into_iter().zip(KONTEXT_SIDES.into_iter().rev()).map(|(w, h)| [w, h]);
        let [width, height] =
            sizes.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or([1024, 1024]);
        picture
            .resize(whole(width), whole(height), Filter::Lanczos)
            .map_err(|e| PipelineError::part("image", e))
    }

    fn adapters(&self, adapters: &[Adapter]) -> Result<Vec<AdapterReport>> {
        Ok(self.texts.adapters(adapters)?)
    }

    fn encoders(&self, device: &Device, dtype: WeightDtype) -> Result<Vec<Weights>> {
        Ok(vec![self.texts.clip(device, dtype)?.1, self.texts.t5(device, dtype)?.1])
    }

    fn text_phase(&self, options: &LoadOptions) -> Result<Phase> {
        let encoders = self.encoders(&options.device, options.dtype)?;
        let (config, _) = self.texts.t5(&options.device, options.dtype)?;
        let widths = [config.d_model, config.d_ff];
        Ok(text_phase(&encoders, self.text_tokens, widths, config.num_heads))
    }

    fn schedule(&self, config: &SchedulerConfig, steps: usize, tokens: usize) -> sampler::Request {
        flux1::schedule(config, steps, tokens)
    }

    fn encode(
        &self,
        options: &LoadOptions,
        prompts: &[Named<'_>],
        notes: &mut Vec<String>,
    ) -> Result<Vec<Prompt>> {
        let adapters = adapters_of(&options.adapters, 0, 1);
        let encoder = FluxTextEncoder::load_parts(&self.texts, &adapters, &options.device, options.dtype)?
            .with_max_sequence_length(self.text_tokens)
            .map_err(|e| PipelineError::part("tokenizer", e))?;
        let one = |prompt: &Named<'_>| -> Result<Prompt> {
            let tokens = encoder.tokenize(prompt.text, None).map_err(|e| PipelineError::part("prompt", e))?;
            notes.extend(truncated(prompt.what, self.text_tokens, tokens.t5.truncated));
            let unknown = encoder.unknown_words(prompt.text).map_err(|e| PipelineError::part("prompt", e))?;
            notes.extend(unknown_words(prompt.what, &unknown));
            let embeds =
                encoder.encode_tokens(&[tokens]).map_err(|e| PipelineError::part("text encoder", e))?;
            Ok(Prompt { text: embeds.prompt_embeds, pooled: Some(embeds.pooled_prompt_embeds) })
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
        let network = FluxTransformer::load_in(weights, self.config.clone(), &options.residence()?)?;
        let mut image = positions::image_ids(grid, 0);
        image.extend(references.iter().flat_map(|grid| positions::image_ids(*grid, 1)));
        Loaded::new(network, prompts, &vec![[0.0; 3]; self.text_tokens], &image, options.plane())
    }
}
