//! The models and samplers as they were before they had caches.

pub mod flux;
pub mod sample;
pub mod wan;
