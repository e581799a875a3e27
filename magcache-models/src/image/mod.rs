//! Pictures from files, and the sizes that models need.
//!
//! A [`Picture`] is a user's file, decoded: all limits are checked before memory is spent, and the result is
//! oriented by its EXIF data, in 8-bit RGB. [`Picture::pixels`] turns it into the input of an autoencoder,
//! [`area_size`] returns the size of a video with its shape, and [`Picture::cover`] crops a last frame to the
//! size of a first one.

mod complete;
mod error;
mod picture;
mod resample;
mod resize;

pub use error::PictureError;
pub use picture::{MAX_FILE_BYTES, MAX_PIXELS, MAX_SIDE, Picture};
pub use resize::{Filter, area_size};
