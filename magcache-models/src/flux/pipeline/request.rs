//! Whether a request can be served.

use super::generation::{Family, ImageUse};
use crate::pipeline::{PipelineError, Request, Result};

/// Checks everything about a request that does not need weights.
pub(super) fn check(request: &Request, family: &dyn Family) -> Result<()> {
    if request.frames != 1 {
        let message = format!("{} frames: this model makes one image", request.frames);
        return Err(PipelineError::request(message, "`frames = 1`"));
    }
    family.guidance(request)?;
    pictures(request, family)
}

fn pictures(request: &Request, family: &dyn Family) -> Result<()> {
    if let Some(picture) = &request.image
        && family.image_use(request) == ImageUse::Reference
    {
        family.check_reference(picture)?;
    }
    let Some(strength) = request.strength else { return Ok(()) };
    if request.image.is_none() {
        let message = format!("strength is {strength}, but there is no image to begin from");
        return Err(PipelineError::request(message, "`image = FILE`"));
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
