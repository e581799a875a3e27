//! From a prompt to latents and back to pixels, one step at a time.
//!
//! A [`Pipeline`] is a checkpoint folder that knows its own sizes and defaults; opening one reads configuration
//! files only. [`Pipeline::denoiser`] encodes a prompt and loads the network; a [`Generation`] walks the sampler
//! with it. Several generations can share one denoiser and run in turns, which is how cached and dense runs are
//! timed against each other.

mod check;
mod denoiser;
mod error;
mod generation;
mod load;
mod noise;
mod options;
mod request;

pub use denoiser::{Denoiser, Entered, TextUses};
pub use error::PipelineError;
pub use generation::{Generation, PassTime};
pub(crate) use load::embedded_files;
pub use load::{Embedded, LoadOptions, Loader, Offload, default_model, embedded, loader_of, loaders, open};
pub use noise::{noise, noise_of_stream};
pub use options::{Request, SamplingOption, SamplingOptions};
pub use request::Defaults;

use std::{fmt::Debug, sync::Arc};

use candle_core::Tensor;
use magcache_core::{ModelMeta, Trajectory, schedule::Sizes};

use crate::{
    checkpoint::Weights,
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
    /// Loading what sees the given image, and encoding it.
    EncodingImage,
    /// Loading the network.
    LoadingTransformer,
    /// Loading the autoencoder.
    LoadingVae,
}

/// The note on words of a prompt that a model does not know; `what` is that prompt.
pub(crate) fn unknown_words(what: &str, words: &[String]) -> Option<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    (!words.is_empty())
        .then(|| format!("the model does not know these words of the {what}: {}", quoted.join(", ")))
}

/// A model's checkpoint folder.
pub trait Pipeline: Debug + Send + Sync {
    /// The registered model with this checkpoint's sizes.
    fn meta(&self) -> &ModelMeta;

    /// What a request does not say.
    fn defaults(&self) -> &Defaults;

    /// The tensors of the network as they are stored, of each expert where there are several; reads headers only.
    fn networks(&self) -> Result<Vec<Weights>>;

    /// What is the same for the same weights and nothing else: SHA-256 of the network's tensors, of each where there are
    /// several. Reads all of them.
    fn fingerprint(&self) -> Result<String> {
        Ok(self.networks()?.iter().map(Weights::sha256).collect::<Vec<_>>().join(" "))
    }

    /// Bytes of the network's tensors, of all where there are several: what [`Pipeline::fingerprint`] reads.
    fn weight_bytes(&self) -> Result<u64> {
        Ok(self.networks()?.iter().map(Weights::total_bytes).sum())
    }

    /// The first frame that the checkpoint's folder offers as a default; none without.
    fn default_image(&self) -> Result<Option<Picture>> {
        Ok(None)
    }

    /// Width and height of what it makes are multiples of these, in pixels.
    fn patch(&self) -> [usize; 2];

    /// Width and height for what is made from `picture`, of about `area` pixels a frame, as the reference pipelines choose
    /// them: the picture's shape, cut down to what the model can make.
    fn size_like(&self, picture: &Picture, area: usize) -> [usize; 2] {
        let [width, height] = self.patch();
        area_size(picture, area, width.max(height)).into()
    }

    /// The request with what the model fills in where it says nothing: the strength of an image that a run begins from.
    fn resolved(&self, request: &Request) -> Request {
        request.clone()
    }

    /// The options of a request that this checkpoint takes, beside those that every model has a default for.
    fn takes(&self) -> Vec<SamplingOption>;

    /// What is wrong with the values of what it takes, before anything is loaded.
    fn check_values(&self, request: &Request) -> Result<()>;

    /// Everything wrong with a request, before anything is loaded: what is the same for every pipeline, then
    /// [`Pipeline::check_values`].
    fn check(&self, request: &Request) -> Result<()> {
        check::check(request, self)?;
        self.check_values(request)
    }

    /// The solver at its start.
    fn sampler(&self, request: &Request) -> Result<Sampler>;

    /// The steps of the run; needs no weights.
    fn trajectory(&self, request: &Request) -> Result<Trajectory>;

    /// How large the tensors of a pass are: what the bytes that a cache holds follow from. Reads headers of weights at most.
    fn sizes(&self, request: &Request) -> Result<Sizes>;

    /// Encodes prompts and image, drops the encoders, and loads the network or, of several, the one that runs first.
    /// Notes for the user (a truncated prompt) go to `notes`.
    fn denoiser(
        &self,
        request: &Request,
        stage: &dyn Fn(Stage),
        notes: &mut Vec<String>,
    ) -> Result<Arc<dyn Denoiser>>;

    /// What the user should know of the files that were loaded since the last call: tensors that nothing read, each told once.
    fn unread(&self) -> Vec<String> {
        Vec::new()
    }

    /// Noise of the latents' shape: the same seed gives the same bytes on every machine.
    fn noise(&self, request: &Request) -> Result<Tensor>;

    /// Decodes the latents of a request and hands on frames `[channels, frames, height, width]` in −1..=1, in order and in
    /// pieces.
    fn decode(
        &self,
        request: &Request,
        latents: &Tensor,
        stage: &dyn Fn(Stage),
        sink: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()>;
}
