//! Whether a request can be served.

use std::borrow::Cow;

use magcache_core::Expert;

use super::{WanSource, WanTask};
use crate::{
    image::Picture,
    pipeline::{PipelineError, Request, Result},
    text::MAX_PROMPT_CHARS,
};

/// Width and height of a video are multiples of these, in pixels.
pub(super) fn multiples(source: &WanSource) -> [usize; 2] {
    let [_, height, width] = source.transformer_config(Expert(0)).patch_size;
    let scale = source.vae_config().spatial_scale();
    [scale * width, scale * height]
}

/// Everything that can be wrong without a look at weights.
pub(super) fn check(request: &Request, source: &WanSource) -> Result<()> {
    size(request, source)?;
    guidance(request, source)?;
    pictures(request, source)?;
    for (what, text) in [("prompt", &request.prompt), ("negative prompt", &request.negative_prompt)] {
        let chars = text.chars().count();
        if chars > MAX_PROMPT_CHARS {
            let message = format!("the {what} has {chars} characters, at most {MAX_PROMPT_CHARS} are read");
            return Err(PipelineError::request(message, "shorten it; the model reads some hundred words"));
        }
    }
    Ok(())
}

/// The last picture in the shape of the first, so that both fill the frame alike.
pub(super) fn fitted<'a>(last: &'a Picture, first: &Picture) -> Result<Cow<'a, Picture>> {
    if (last.width(), last.height()) == (first.width(), first.height()) {
        return Ok(Cow::Borrowed(last));
    }
    let cut = last.cover(first.width(), first.height());
    cut.map(Cow::Owned).map_err(|e| PipelineError::part("last image", e))
}

fn size(request: &Request, source: &WanSource) -> Result<()> {
    let [width, height] = multiples(source);
    for (what, got, multiple) in [("width", request.width, width), ("height", request.height, height)] {
        if got == 0 || !got.is_multiple_of(multiple) {
            let near = (got as f64 / multiple as f64).round().max(1.0) as usize * multiple;
            let message = format!("{what} {got} is not a multiple of {multiple}, this model's patch");
            return Err(PipelineError::request(message, format!("the nearest is {near}")));
        }
    }
    let t = source.vae_config().temporal_scale();
    if request.frames == 0 || !(request.frames - 1).is_multiple_of(t) {
        let near = request.frames.saturating_sub(1) / t * t + 1;
        let message = format!("{} frames: this model makes 1 more than a multiple of {t}", request.frames);
        return Err(PipelineError::request(message, format!("try {near} or {}", near + t)));
    }
    Ok(())
}

fn guidance(request: &Request, source: &WanSource) -> Result<()> {
    for (what, scale) in [("guidance", Some(request.guidance)), ("guidance_2", request.guidance_2)] {
        if let Some(scale) = scale
            && (!scale.is_finite() || scale < 0.0)
        {
            let message = format!("{what} is {scale}, it must be a number of at least 0");
            return Err(PipelineError::request(message, "at most 1 runs without the negative prompt"));
        }
    }
    if let Some(scale) = request.true_cfg {
        let message = format!("true_cfg is {scale}, but this model is told no guidance");
        return Err(PipelineError::request(message, "--guidance is its scale of classifier-free guidance"));
    }
    if source.experts() > 1 {
        return Ok(());
    }
    for (what, value) in [("guidance_2", request.guidance_2), ("boundary", request.boundary_ratio)] {
        if let Some(value) = value {
            let message = format!("{what} is {value}, but this model has one transformer");
            return Err(PipelineError::request(message, "it is for models with two experts; remove it"));
        }
    }
    Ok(())
}

fn pictures(request: &Request, source: &WanSource) -> Result<()> {
    if let Some(strength) = request.strength {
        let message = format!("strength is {strength}, but videos are not made out of videos here");
        return Err(PipelineError::request(message, "it is for models of images; remove it"));
    }
    // A CLIP embedding of one image is what the network was trained with.
    let one_embedding = source.image_encoder_config().is_some();
    let (first, last) = (request.image.is_some(), request.last_image.is_some());
    let refuse = |message: &str, hint: &str| Err(PipelineError::request(message, hint));
    match source.task() {
        WanTask::T2V if first || last => {
            refuse("this model makes videos from text alone, it takes no image", "remove the image")
        }
        WanTask::I2V | WanTask::FLF2V if !first => {
            refuse("this model continues an image, and none is given", "--image FILE")
        }
        WanTask::FLF2V if !last => refuse(
            "this model goes from a first to a last image, and the last is missing",
            "--last-image FILE",
        ),
        WanTask::TI2V if last => refuse("this model takes a first image only", "remove the last image"),
        WanTask::I2V if last && one_embedding => refuse(
            "this model takes a first image only",
            "remove the last image, or use a first-and-last-frame model",
        ),
        _ if last && request.frames == 1 => {
            refuse("1 frame cannot begin with one image and end with another", "more frames, or one image")
        }
        _ => Ok(()),
    }
}
