//! Speech to video: Wan2.2-S2V.
//!
//! A picture and a recording become a video, one clip after the other. [`AudioEmbedding`] is what the
//! transformer hears, [`ClipFrames`] counts frames and latents, and [`video_size`], [`Fit`] and [`PoseStep`]
//! say how pictures and pose videos fit into the video.

mod embedding;
mod fit;
mod frames;
mod pose;
mod size;
mod windows;

pub use embedding::{AudioEmbedding, FEATURES_PER_SECOND, feature_frames, features};
pub use fit::Fit;
pub use frames::{ClipFrames, FPS, MOTION_FRAMES, first_window, next_window};
pub use pose::{PoseStep, pose_pixels};
pub use size::video_size;
pub use windows::AudioWindows;
