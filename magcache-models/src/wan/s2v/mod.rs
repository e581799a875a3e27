//! Speech to video: Wan2.2-S2V.
//!
//! A picture and a recording become a video, one clip after the other. [`AudioEmbedding`] is what the
//! transformer hears, [`ClipFrames`] counts frames and latents, and [`video_size`], [`Fit`] and [`PoseStep`]
//! say how pictures and pose videos fit into the video.

mod audio_tokens;
mod config;
mod denoiser;
mod embedding;
mod fit;
mod frames;
mod injector;
mod motion;
mod pipeline;
mod pose;
mod positions;
mod size;
mod transformer;
mod windows;

pub use audio_tokens::{AudioTokens, CausalAudioEncoder};
pub use config::S2vConfig;
pub(in crate::wan) use config::knows_key;
pub use denoiser::{S2vDenoiser, S2vVideo, encode_picture};
pub use embedding::{AudioEmbedding, FEATURES_PER_SECOND, feature_frames, features};
pub use fit::Fit;
pub use frames::{ClipFrames, FPS, MOTION_FRAMES, first_window, next_window};
pub use injector::{AudioInjector, Heard};
pub use motion::FramePacker;
pub use pipeline::S2vPipeline;
pub use pose::{PoseStep, pose_pixels};
pub use positions::{TokenGrid, motion_positions};
pub use size::video_size;
pub use transformer::{ClipContext, ClipInputs, ClipTokens, S2vInput, S2vTransformer};
pub use windows::AudioWindows;
