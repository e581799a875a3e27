//! From a prompt to latents and back to pixels, one step at a time.
//!
//! A [`Pipeline`] is a checkpoint folder that knows its own sizes and defaults; opening one reads
//! configuration files only. [`Pipeline::denoiser`] encodes a prompt and loads the network; a [`Generation`]
//! runs the sampler with it. Several generations can share one denoiser and run in turns, which is how cached
//! and dense runs are timed against each other.

mod check;
mod denoiser;
mod error;
mod generation;
mod given;
mod load;
mod memory;
mod noise;
mod options;
mod pose;
mod request;
pub(crate) mod still;

pub use denoiser::{Denoiser, Entered, NextClip, TextUses};
pub(crate) use denoiser::{begin_from, text_of};
pub use error::PipelineError;
pub use generation::{Generation, PassTime};
pub use given::{GivenAdapter, GivenFiles, Noise, PartFile, adapters_of, noise_of};
pub(crate) use load::embedded_files;
pub use load::{Embedded, LoadOptions, Loader, Offload, default_model, embedded, loader_of, loaders, open};
pub use memory::{Division, Phase, text_phase, transformer_phase};
pub use noise::{noise, noise_of_stream};
pub use options::{Request, SamplingOption, SamplingOptions};
pub use pose::PoseVideo;
pub use request::Defaults;

use std::{fmt::Debug, sync::Arc};

use candle_core::Tensor;
use magcache_core::{ModelMeta, Trajectory, schedule::Sizes};

use crate::{
    checkpoint::{AdapterReport, Weights},
    image::{Picture, area_size},
    sampler::Sampler,
};

/// Result of the pipelines.
pub type Result<T, E = PipelineError> = std::result::Result<T, E>;

/// What a pipeline is doing, for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Loading the text encoder and encoding the prompts.
    EncodingPrompt,
    /// Loading the encoder of the given recording, and encoding it.
    EncodingAudio,
    /// Loading the encoder of the given image, and encoding it.
    EncodingImage,
    /// Loading the network.
    LoadingTransformer,
    /// Loading the autoencoder.
    LoadingVae,
}

/// The note on words that a model does not know; `what` names the prompt.
pub(crate) fn unknown_words(what: &str, words: &[String]) -> Option<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    (!words.is_empty())
        .then(|| format!("the model does not know these words of the {what}: {}", quoted.join(", ")))
}

/// The note on a prompt of which the last `cut` tokens do not fit; `what` names the prompt.
pub(crate) fn truncated(what: &str, kept: usize, cut: usize) -> Option<String> {
    (cut > 0).then(|| format!("the {what} is longer than {kept} tokens: the last {cut} are cut"))
}

/// A model's checkpoint folder.
pub trait Pipeline: Debug + Send + Sync {
    /// The registered model with this checkpoint's sizes.
    fn meta(&self) -> &ModelMeta;

    /// The values used where a request has none.
    fn defaults(&self) -> &Defaults;

    /// The stored tensors of the network, or of each expert; reads headers only.
    fn networks(&self) -> Result<Vec<Weights>>;

    /// What the adapters do that the checkpoint was opened with, expert by expert; reads all of them.
    ///
    /// # Errors
    /// An adapter that cannot be applied.
    fn adapters(&self) -> Result<Vec<AdapterReport>> {
        Ok(Vec::new())
    }

    /// Identifies the weights: SHA-256 of the network's tensors, or of each expert's. Reads all of them.
    fn fingerprint(&self) -> Result<String> {
        Ok(self.networks()?.iter().map(Weights::sha256).collect::<Vec<_>>().join(" "))
    }

    /// The number formats of the network's tensors, as people write them: `bf16`, `gguf Q4_K+Q6_K`.
    fn number_formats(&self) -> Result<String> {
        let networks = self.networks()?;
        let mut all: Vec<String> = networks.iter().map(Weights::number_formats).collect();
        all.dedup();
        Ok(all.join(", "))
    }

    /// Bytes of the network's tensors, or of all experts': as many as [`Pipeline::fingerprint`] reads.
    fn weight_bytes(&self) -> Result<u64> {
        Ok(self.networks()?.iter().map(Weights::total_bytes).sum())
    }

    /// What the phases of a run hold, computed from headers and the request; nothing for pipelines that do
    /// not say.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn memory(&self, _: &Request) -> Result<Vec<Phase>> {
        Ok(Vec::new())
    }

    /// The stored tensors of the text encoders; reads headers only.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn encoders(&self) -> Result<Vec<Weights>> {
        Ok(Vec::new())
    }

    /// Looks at every number of the networks and text encoders: for a run whose results are none.
    ///
    /// # Errors
    /// The first tensor with a value that is not finite; a file that cannot be read.
    fn check_weights(&self) -> Result<()> {
        let mut all = self.encoders()?.into_iter().chain(self.networks()?);
        Ok(all.try_for_each(|weights| weights.check_finite())?)
    }

    /// The first frame that the checkpoint's folder offers as a default, if any.
    fn default_image(&self) -> Result<Option<Picture>> {
        Ok(None)
    }

    /// The recording that the checkpoint's folder offers as a default, as a file, if any.
    fn default_audio(&self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Width and height of the output are multiples of these, in pixels.
    fn patch(&self) -> [usize; 2];

    /// Width and height of an output made from `picture`, with about `area` pixels a frame, as the reference
    /// pipelines choose them: the picture's shape, rounded down to what the model can generate.
    fn size_like(&self, picture: &Picture, area: usize) -> [usize; 2] {
        let [width, height] = self.patch();
        area_size(picture, area, width.max(height)).into()
    }

    /// The request with the values that the model fills in: the strength of an image that a run begins from.
    fn resolved(&self, request: &Request) -> Request {
        request.clone()
    }

    /// The options of a request that this checkpoint takes, besides those that every model has a default for.
    fn takes(&self) -> Vec<SamplingOption>;

    /// Checks the values of the options that it takes, before anything is loaded.
    fn check_values(&self, request: &Request) -> Result<()>;

    /// Checks everything about a request before anything is loaded: what is the same for every pipeline, then
    /// [`Pipeline::check_values`].
    fn check(&self, request: &Request) -> Result<()> {
        check::check(request, self)?;
        self.check_values(request)
    }

    /// The solver in its initial state.
    fn sampler(&self, request: &Request) -> Result<Sampler>;

    /// The steps of the run; needs no weights.
    fn trajectory(&self, request: &Request) -> Result<Trajectory>;

    /// Frames of the output: of all clips, in models that make several.
    ///
    /// # Errors
    /// A request without what decides on their number.
    fn frames(&self, request: &Request) -> Result<usize> {
        Ok(request.frames)
    }

    /// Frames that were made and cut off before the first one of the output, which a recording goes on
    /// during.
    fn frames_cut_off(&self, _request: &Request) -> usize {
        0
    }

    /// Sizes of the tensors of a pass, from which the bytes that a cache holds are computed. Reads headers of
    /// weights at most.
    fn sizes(&self, request: &Request) -> Result<Sizes>;

    /// The only one of [`Pipeline::denoisers`] for one request.
    fn denoiser(
        &self,
        request: &Request,
        stage: &dyn Fn(Stage),
        notes: &mut Vec<String>,
    ) -> Result<Arc<dyn Denoiser>> {
        let mut one = self.denoisers(std::slice::from_ref(request), stage, notes)?;
        one.pop().ok_or_else(|| PipelineError::request("no prompt", "give one"))
    }

    /// A denoiser for each of several requests that differ in prompt and seed alone: encodes all prompts and
    /// the image, drops the encoders, and loads the network, or the expert that runs first, once for all.
    /// Notes for the user (a truncated prompt) go to `notes`.
    fn denoisers(
        &self,
        requests: &[Request],
        stage: &dyn Fn(Stage),
        notes: &mut Vec<String>,
    ) -> Result<Vec<Arc<dyn Denoiser>>>;

    /// Warnings about the files loaded since the last call: tensors that nothing read, each reported once.
    fn unread(&self) -> Vec<String> {
        Vec::new()
    }

    /// Noise of the latents' shape: the same seed gives the same bytes on every machine.
    fn noise(&self, request: &Request) -> Result<Tensor>;

    /// Decodes the latents of a request and passes on frames `[channels, frames, height, width]` in −1..=1,
    /// in order and in pieces.
    fn decode(
        &self,
        request: &Request,
        latents: &Tensor,
        stage: &dyn Fn(Stage),
        sink: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()>;
}
