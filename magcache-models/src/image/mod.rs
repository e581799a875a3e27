//! Pictures from files, and the sizes that models want them in.
//!
//! A [`Picture`] is what a user's file shows: read with every limit checked before memory is spent, turned as its camera
//! says, in 8-bit RGB. [`Picture::pixels`] makes of it what an autoencoder takes, [`area_size`] the size of a
//! video that keeps its shape, and [`Picture::cover`] cuts a last frame to the size of a first one.

mod complete;
mod error;
mod picture;
mod resize;

pub use error::PictureError;
pub use picture::{MAX_FILE_BYTES, MAX_PIXELS, MAX_SIDE, Picture};
pub use resize::{Filter, area_size};
