//! Whether a request can be served.

use std::borrow::Cow;

use super::{WanSource, WanTask};
use crate::{
    image::Picture,
    pipeline::{PipelineError, Request, Result, SamplingOption},
};

/// The options that a checkpoint takes.
pub(super) fn taken(source: &WanSource) -> Vec<SamplingOption> {
    let mut taken = vec![SamplingOption::sampler, SamplingOption::flow_shift];
    if source.experts() > 1 {
        taken.extend([SamplingOption::guidance_2, SamplingOption::boundary]);
    }
    // Networks with an image encoder were trained with the CLIP embedding of one image.
    let one_embedding = source.image_encoder_config().is_some();
    match source.task() {
        WanTask::T2V => {}
        WanTask::TI2V | WanTask::S2V => taken.push(SamplingOption::image),
        WanTask::I2V if one_embedding => taken.push(SamplingOption::image),
        WanTask::I2V | WanTask::FLF2V => taken.extend([SamplingOption::image, SamplingOption::last_image]),
    }
    taken
}

/// Checks everything about these values that does not need weights.
pub(super) fn check(request: &Request, source: &WanSource) -> Result<()> {
    frames(request, source)?;
    pictures(request, source)
}

/// The last picture cropped to the shape of the first, so that both fill the frame alike.
pub(super) fn fitted<'a>(last: &'a Picture, first: &Picture) -> Result<Cow<'a, Picture>> {
    if (last.width(), last.height()) == (first.width(), first.height()) {
        return Ok(Cow::Borrowed(last));
    }
    let cut = last.cover(first.width(), first.height());
    cut.map(Cow::Owned).map_err(|e| PipelineError::part("last image", e))
}

fn frames(request: &Request, source: &WanSource) -> Result<()> {
    let t = source.vae_config().temporal_scale();
    if request.frames == 0 || !(request.frames - 1).is_multiple_of(t) {
        let near = request.frames.saturating_sub(1) / t * t + 1;
        let message = format!("{} frames: this model makes 1 more than a multiple of {t}", request.frames);
        return Err(PipelineError::request(message, format!("try {near} or {}", near + t)));
    }
    Ok(())
}

fn pictures(request: &Request, source: &WanSource) -> Result<()> {
    let (first, last) = (request.image.is_some(), request.last_image.is_some());
    let refuse = |message: &str, hint: &str| Err(PipelineError::request(message, hint));
    match source.task() {
        WanTask::I2V | WanTask::FLF2V if !first => {
            refuse("this model continues an image, and none is given", "`image = FILE`")
        }
        WanTask::FLF2V if !last => refuse(
            "this model goes from a first to a last image, and the last is missing",
            "`last_image = FILE`",
        ),
        _ if last && request.frames == 1 => {
            refuse("1 frame cannot begin with one image and end with another", "more frames, or one image")
        }
        _ => Ok(()),
    }
}
