//! Published defaults of the Wan models.
//!
//! Source: the example configurations of the Wan repositories and the pipelines' documentation in diffusers
//! 0.42.1.

use super::{Layout, WanSource, WanTask};
use crate::pipeline::{Defaults, Request};

/// Pixels per frame up to which a video is 480p for the Wan team's programs.
const AREA_480P: usize = 480 * 832;

/// The negative prompt that speech to video is published with.
const S2V_NEGATIVE: &str = "画面模糊，最差质量，画面模糊，细节模糊不清，情绪激动剧烈，手快速抖动，字幕，丑陋的，残缺的，多余的手指，\
                            画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，\
                            杂乱的背景，三条腿，背景人很多，倒着走";

/// The shift that depends on the size of the video. The native folders of Wan2.1 image to video do not
/// contain the resolution that they were trained for, so the Wan team's program decides by the size;
/// diffusers' folders have the shift in their scheduler.
pub(super) fn shift_for_size(source: &WanSource, request: &Request) -> Option<f64> {
    let wan21_i2v = source.task() == WanTask::I2V && source.experts() == 1;
    let small = request.width() * request.height() <= AREA_480P;
    (source.layout() == Layout::Native && wan21_i2v && small).then_some(3.0)
}

/// Steps, size, frames and guidance of a checkpoint whose folder does not contain them.
pub(super) fn published(source: &WanSource) -> Defaults {
    let base = Request {
        prompt: "a lighthouse above a stormy sea, evening light".to_owned(),
        steps: 50,
        size: [832, 480],
        frames: 81,
        guidance: 5.0,
        ..Request::default()
    };
    let fps = if source.task() == WanTask::TI2V { 24.0 } else { 16.0 };
    let request = match (source.task(), source.experts()) {
        (WanTask::T2V, 1) => base,
        (WanTask::T2V, _) => {
            Request { steps: 40, size: [1280, 720], guidance: 4.0, guidance_2: Some(3.0), ..base }
        }
        (WanTask::I2V | WanTask::FLF2V, 1) => Request { steps: 40, ..base },
        (WanTask::I2V | WanTask::FLF2V, _) => {
            Request { steps: 40, guidance: 3.5, guidance_2: Some(3.5), ..base }
        }
        (WanTask::S2V, _) => Request {
            prompt: "a person is speaking to the camera".to_owned(),
            negative_prompt: S2V_NEGATIVE.to_owned(),
            steps: 40,
            size: [1024, 704],
            frames: 80,
            guidance: 4.5,
            ..base
        },
        (WanTask::TI2V, _) => Request { size: [1280, 704], frames: 121, ..base },
    };
    Defaults { fps, request, ..Defaults::default() }
}
