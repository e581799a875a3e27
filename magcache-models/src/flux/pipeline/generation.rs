//! Where the two generations differ.

use std::{fmt::Debug, sync::Arc};

use candle_core::{Device, Tensor};
use magcache_core::ModelMeta;

use crate::{
    checkpoint::{Adapter, AdapterReport, CheckpointError, Folder, WeightDtype, Weights},
    flux::{FluxGuidance, FluxNetwork, Transformer},
    image::Picture,
    mmdit::{JointPositions, PromptContext},
    pipeline::{Defaults, LoadOptions, Phase, PipelineError, Request, Result, SamplingOption},
    ranks::DataPlane,
    sampler::{self, SchedulerConfig},
};

/// How a picture of the request is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageUse {
    /// The run begins from it, with noise (`strength`).
    Start,
    /// The network looks at it.
    Reference,
}

/// An encoded prompt.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// `[1, tokens, channels]`.
    pub(super) text: Tensor,
    /// `[1, channels]`, only in FLUX.1.
    pub(super) pooled: Option<Tensor>,
}

/// A prompt of the request and its name in notes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) what: &'static str,
    pub(super) text: &'a str,
}

/// A network with its prompts.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) network: Arc<dyn FluxNetwork>,
    /// One per prompt, in the same order.
    pub(super) contexts: Vec<PromptContext>,
    pub(super) positions: JointPositions,
}

impl Loaded {
    /// Prepares the prompts and the ids of text and image for `network`, and divides it among ranks.
    pub(super) fn new<C, const AXES: usize>(
        network: Transformer<C, AXES>,
        prompts: &[Prompt],
        text: &[[f32; AXES]],
        image: &[[f32; AXES]],
        plane: Option<&Arc<dyn DataPlane>>,
    ) -> Result<Self>
    where
        C: Debug + Send + Sync + 'static,
    {
        let context = |prompt: &Prompt| network.context(&prompt.text, prompt.pooled.as_ref());
        let contexts = prompts.iter().map(context).collect::<candle_core::Result<_>>()?;
        let positions = network.positions(text, image)?;
        let network = network.over(plane).map_err(PipelineError::refused)?;
        Ok(Self { network: Arc::new(network), contexts, positions })
    }
}

/// One generation of Flux, with the configuration of a checkpoint.
pub(super) trait Family: Debug + Send + Sync {
    /// The registered model with this checkpoint's sizes.
    fn meta(&self) -> ModelMeta;

    /// The defaults that it was published with.
    fn defaults(&self) -> Defaults;

    /// The options of a request that it takes.
    fn takes(&self) -> Vec<SamplingOption>;

    /// Most tokens of a prompt.
    fn text_tokens(&self) -> usize;

    /// How strongly the prompt is followed.
    ///
    /// # Errors
    /// A scale that this model does not accept.
    fn guidance(&self, request: &Request) -> Result<FluxGuidance>;

    /// How the picture of a request is used.
    fn image_use(&self, request: &Request) -> ImageUse;

    /// Width and height, multiples of `multiple` with about `area` pixels, of an image generated from a
    /// picture.
    fn size_like(&self, picture: &Picture, area: usize, multiple: usize) -> [usize; 2];

    /// Checks that a picture can be a reference.
    ///
    /// # Errors
    /// A picture of a shape that the model was not trained on.
    fn check_reference(&self, _picture: &Picture) -> Result<()> {
        Ok(())
    }

    /// A reference picture in the size that the network sees, both sides multiples of `multiple`.
    fn reference(&self, picture: &Picture, multiple: usize) -> Result<Picture>;

    /// What adapters do to the text encoders.
    ///
    /// # Errors
    /// Adapters that do not fit them.
    fn adapters(&self, _adapters: &[Adapter]) -> Result<Vec<AdapterReport>> {
        Ok(Vec::new())
    }

    /// The tensors of the text encoders.
    ///
    /// # Errors
    /// Encoders that cannot be opened.
    fn encoders(&self, device: &Device, dtype: WeightDtype) -> Result<Vec<Weights>>;

    /// What encoding the prompts holds.
    ///
    /// # Errors
    /// Encoders that cannot be opened.
    fn text_phase(&self, options: &LoadOptions) -> Result<Phase>;

    /// The noise levels of a run over `tokens` tokens.
    fn schedule(&self, config: &SchedulerConfig, steps: usize, tokens: usize) -> sampler::Request;

    /// Loads the text encoders, encodes the prompts and drops the encoders. Notes for the user go to `notes`.
    fn encode(
        &self,
        options: &LoadOptions,
        prompts: &[Named<'_>],
        notes: &mut Vec<String>,
    ) -> Result<Vec<Prompt>>;

    /// Loads the network; `grid` is the rows and columns of the image's tokens, `references` those of
    /// reference images.
    fn load(
        &self,
        weights: &Weights,
        prompts: &[Prompt],
        grid: [usize; 2],
        references: &[[usize; 2]],
        options: &LoadOptions,
    ) -> Result<Loaded>;
}

/// Checks that a text encoder exists: single files contain the transformer or the autoencoder alone.
pub(super) fn needed(folder: &Folder, encoder: &str) -> Result<()> {
    const FILE: &str = "config.json";
    let folder = folder.sub(encoder);
    if folder.exists(FILE) {
        return Ok(());
    }
    let expected = "the text encoder and its tokenizer in the folders that diffusers has them in";
    Err(CheckpointError::MissingFile { file: folder.describe_file(FILE), expected: expected.into() }.into())
}
