//! Whether a request can be served.

use super::generation::{Family, ImageUse};
use crate::{
    pipeline::{PipelineError, Request, Result},
    text::MAX_PROMPT_CHARS,
};

/// Everything that can be wrong without a look at weights. Sides of an image are multiples of `multiple`.
pub(super) fn check(request: &Request, family: &dyn Family, multiple: usize) -> Result<()> {
    for (what, got) in [("width", request.width), ("height", request.height)] {
        if got == 0 || !got.is_multiple_of(multiple) {
            let near = (got as f64 / multiple as f64).round().max(1.0) as usize * multiple;
            let message = format!("{what} {got} is not a multiple of {multiple}, this model's patch");
            return Err(PipelineError::request(message, format!("the nearest is {near}")));
        }
    }
    if request.frames != 1 {
        let message = format!("{} frames: this model makes one image", request.frames);
        return Err(PipelineError::request(message, "--frames 1"));
    }
    numbers(request)?;
    family.guidance(request)?;
    pictures(request, family)?;
    for (what, text) in [("prompt", &request.prompt), ("negative prompt", &request.negative_prompt)] {
        let chars = text.chars().count();
        if chars > MAX_PROMPT_CHARS {
            let message = format!("the {what} has {chars} characters, at most {MAX_PROMPT_CHARS} are read");
            return Err(PipelineError::request(message, "shorten it; the model reads some hundred words"));
        }
    }
    Ok(())
}

fn numbers(request: &Request) -> Result<()> {
    for (what, scale) in [("guidance", Some(request.guidance)), ("true_cfg", request.true_cfg)] {
        if let Some(scale) = scale
            && (!scale.is_finite() || scale < 0.0)
        {
            let message = format!("{what} is {scale}, it must be a number of at least 0");
            return Err(PipelineError::request(message, "3.5 is what FLUX.1 dev is used with"));
        }
    }
    for (what, value) in [("guidance_2", request.guidance_2), ("boundary", request.boundary_ratio)] {
        if let Some(value) = value {
            let message = format!("{what} is {value}, but this model has one transformer");
            return Err(PipelineError::request(message, "it is for models with two experts; remove it"));
        }
    }
    Ok(())
}

fn pictures(request: &Request, family: &dyn Family) -> Result<()> {
    if request.last_image.is_some() {
        let message = "this model makes one image, there is no last frame";
        return Err(PipelineError::request(message, "remove the last image"));
    }
    if let Some(picture) = &request.image
        && family.image_use(request) == ImageUse::Reference
    {
        family.check_reference(picture)?;
    }
    let Some(strength) = request.strength else { return Ok(()) };
    if request.image.is_none() {
        let message = format!("strength is {strength}, but there is no image to begin from");
        return Err(PipelineError::request(message, "--image FILE"));
    }
    if !(strength > 0.0 && strength <= 1.0) {
        let message = format!("strength is {strength}, it must be above 0 and at most 1");
        let hint = "0.6 runs the last 0.6 of the steps; 1 keeps nothing of the image";
        return Err(PipelineError::request(message, hint));
    }
    if request.steps > 0 && request.first_step() >= request.steps {
        let message = format!("strength {strength} leaves none of {} steps", request.steps);
        return Err(PipelineError::request(
            message,
            format!("at least {}", 1.0 / request.steps.max(1) as f64),
        ));
    }
    Ok(())
}
