//! Skeleton.

pub mod sampler;
