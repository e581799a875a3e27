//! The checks of a request that are the same for every pipeline.

use super::{Pipeline, PipelineError, Request, Result, SamplingOption};
use crate::text::MAX_PROMPT_CHARS;

/// Everything wrong with a request whatever the model: options that it does not take, sides that do not
/// divide into patches, invalid scales, texts longer than any encoder reads.
pub(super) fn check<P: Pipeline + ?Sized>(request: &Request, pipeline: &P) -> Result<()> {
    not_taken(request, &pipeline.meta().name, &pipeline.takes())?;
    size(request, pipeline.patch())?;
    let scales = [
        (SamplingOption::guidance, Some(request.guidance)),
        (SamplingOption::true_cfg, request.true_cfg),
        (SamplingOption::guidance_2, request.guidance_2),
    ];
    for (option, scale) in scales {
        if let Some(scale) = scale
            && (!scale.is_finite() || scale < 0.0)
        {
            let message = format!("{} is {scale}, it must be a number of at least 0", option.key());
            return Err(PipelineError::request(message, "at most 1 runs without the negative prompt"));
        }
    }
    for (what, text) in [("prompt", &request.prompt), ("negative prompt", &request.negative_prompt)] {
        let chars = text.chars().count();
        if chars > MAX_PROMPT_CHARS {
            let message = format!("the {what} has {chars} characters, at most {MAX_PROMPT_CHARS} are read");
            return Err(PipelineError::request(message, "shorten it; the model reads some hundred words"));
        }
    }
    Ok(())
}

/// Refuses an option that is set and that the model does not take.
fn not_taken(request: &Request, model: &str, takes: &[SamplingOption]) -> Result<()> {
    match request.given().into_iter().find(|(option, _)| !takes.contains(option)) {
        None => Ok(()),
        Some((option, value)) => {
            let message = format!("{} {value}, but {model} does not take it", option.key());
            Err(PipelineError::request(message, option.hint()))
        }
    }
}

fn size(request: &Request, multiples: [usize; 2]) -> Result<()> {
    for ((what, got), multiple) in ["width", "height"].into_iter().zip(request.size).zip(multiples) {
        if got == 0 || !got.is_multiple_of(multiple) {
            let near = (got as f64 / multiple as f64).round().max(1.0) as usize * multiple;
            let message = format!("{what} {got} is not a multiple of {multiple}, this model's patch");
            return Err(PipelineError::request(message, format!("the nearest is {near}")));
        }
    }
    Ok(())
}
