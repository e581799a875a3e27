//! What is asked for.

use std::sync::Arc;

use serde::Deserialize;

use crate::{image::Picture, sampler::SamplerKind};

/// One generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What to show.
    pub prompt: String,
    /// What not to show; used when guidance is above 1.
    pub negative_prompt: String,
    /// Sampling steps.
    pub steps: usize,
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Frames; 1 for an image.
    pub frames: usize,
    /// Of the initial noise.
    pub seed: u64,
    /// Scale of classifier-free guidance, at most 1 is without; what a guidance-distilled model is told instead (FLUX.1 dev).
    pub guidance: f64,
    /// Scale of classifier-free guidance in such a model, at most 1 is without.
    pub true_cfg: Option<f64>,
    /// `guidance` of the second expert; `None` takes the first one's.
    pub guidance_2: Option<f64>,
    /// The solver, if not the checkpoint's.
    pub sampler: Option<SamplerKind>,
    /// The schedule's shift, if not the checkpoint's.
    pub flow_shift: Option<f64>,
    /// The part of the schedule below which the second expert runs, if not the checkpoint's.
    pub boundary_ratio: Option<f64>,
    /// The first frame of a video, or the image that an image is made from, for models that take one.
    pub image: Option<Arc<Picture>>,
    /// Image to image: how much of the schedule runs, above 0 and at most 1, which starts from the image alone.
    pub strength: Option<f64>,
    /// The last frame, for models that take one.
    pub last_image: Option<Arc<Picture>>,
}

impl Request {
    /// The first step that runs: 0, or where `strength` starts. Source: `get_timesteps` of diffusers' `FluxImg2ImgPipeline`
    /// (0.42.1).
    pub fn first_step(&self) -> usize {
        let (steps, strength) = (self.steps as f64, self.strength.unwrap_or(1.0));
        (steps - (steps * strength).min(steps)).max(0.0) as usize
    }
}

/// What a checkpoint's folder says about how it wants to be used (`magcache.json`), or what its family is published
/// with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// The registered model, where the folder knows it.
    #[serde(default)]
    pub model: Option<String>,
    /// A prompt that the model can show.
    #[serde(default)]
    pub prompt: String,
    /// The negative prompt that it was published with.
    #[serde(default)]
    pub negative_prompt: String,
    /// Sampling steps.
    pub steps: usize,
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Frames.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
    /// Scale of classifier-free guidance.
    pub guidance: f64,
    /// The same for the second expert, where it has one of its own.
    #[serde(default)]
    pub guidance_2: Option<f64>,
    /// A file of the folder: a first frame that the model can continue.
    #[serde(default)]
    pub image: Option<String>,
}

impl Defaults {
    /// A request with every default but the image, which is a file.
    pub fn request(&self) -> Request {
        Request {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            steps: self.steps,
            width: self.width,
            height: self.height,
            frames: self.frames,
            seed: 42,
            guidance: self.guidance,
            true_cfg: None,
            guidance_2: self.guidance_2,
            sampler: None,
            flow_shift: None,
            boundary_ratio: None,
            image: None,
            strength: None,
            last_image: None,
        }
    }
}
