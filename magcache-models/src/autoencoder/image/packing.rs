//! Latents as tokens of the transformers.
//!
//! A token is a square of two by two latents; its values are ordered channel, row, column. FLUX.1 packs
//! latents that are already scaled ([`pack`]). FLUX.2 first turns the squares into channels ([`patchify`]),
//! scales those, and then only moves the channels last ([`flatten`]).
//!
//! Source: `FluxPipeline`, `FluxKontextPipeline` and `Flux2Pipeline` of diffusers 0.42.1.

use candle_core::Tensor;

use crate::autoencoder::error::{AutoencoderError, Result};
use crate::nn;

/// Side of the squares of latents that become tokens.
pub const PATCH: usize = 2;

/// `[batch, channels, h, w]` to `[batch, h / 2 * w / 2, 4 * channels]`.
///
/// # Errors
/// [`AutoencoderError::Odd`] for an odd height or width, [`AutoencoderError::Shape`] for another rank.
pub fn pack(latents: &Tensor) -> Result<Tensor> {
    token_grid(latents)?;
    Ok(nn::patchify(&latents.unsqueeze(2)?, [1, PATCH, PATCH])?)
}

/// The inverse of [`pack`]; `grid` is the rows and columns of tokens.
///
/// # Errors
/// [`AutoencoderError::Shape`] for another number of tokens, or channels that do not divide into squares.
pub fn unpack(tokens: &Tensor, grid: [usize; 2]) -> Result<Tensor> {
    let [_, channels] = tokens_of(tokens, grid)?;
    if !channels.is_multiple_of(PATCH * PATCH) {
        return Err(no_squares("tokens", tokens, "[batch, tokens, 4 * channels]"));
    }
    let [rows, columns] = grid;
    Ok(nn::unpatchify(tokens, [1, rows, columns], [1, PATCH, PATCH])?.squeeze(2)?)
}

/// `[batch, channels, h, w]` to `[batch, 4 * channels, h / 2, w / 2]`.
///
/// # Errors
/// As [`pack`].
pub fn patchify(latents: &Tensor) -> Result<Tensor> {
    let grid = token_grid(latents)?;
    unflatten(&pack(latents)?, grid)
}

/// The inverse of [`patchify`].
///
/// # Errors
/// [`AutoencoderError::Shape`] for another rank, or channels that do not divide into squares.
pub fn unpatchify(patches: &Tensor) -> Result<Tensor> {
    let (_, _, rows, columns) = patches
        .dims4()
        .map_err(|_| no_squares("patches", patches, "[batch, 4 * channels, rows, columns]"))?;
    unpack(&flatten(patches)?, [rows, columns])
}

/// `[batch, channels, rows, columns]` to `[batch, rows * columns, channels]`.
///
/// # Errors
/// [`AutoencoderError::Shape`] for another rank.
pub fn flatten(patches: &Tensor) -> Result<Tensor> {
    if patches.rank() != 4 {
        return Err(no_squares("patches", patches, "[batch, channels, rows, columns]"));
    }
    Ok(patches.flatten_from(2)?.transpose(1, 2)?.contiguous()?)
}

/// The inverse of [`flatten`]; `grid` is the rows and columns of tokens.
///
/// # Errors
/// [`AutoencoderError::Shape`] for another number of tokens.
pub fn unflatten(tokens: &Tensor, grid: [usize; 2]) -> Result<Tensor> {
    let [batch, channels] = tokens_of(tokens, grid)?;
    let [rows, columns] = grid;
    Ok(tokens.transpose(1, 2)?.contiguous()?.reshape((batch, channels, rows, columns))?)
}

/// Rows and columns of tokens of latents `[batch, channels, h, w]`.
///
/// # Errors
/// As [`pack`].
pub fn token_grid(latents: &Tensor) -> Result<[usize; 2]> {
    let (_, _, height, width) =
        latents.dims4().map_err(|_| no_squares("latents", latents, "[batch, channels, height, width]"))?;
    if height % PATCH != 0 || width % PATCH != 0 {
        return Err(AutoencoderError::Odd { width, height });
    }
    Ok([height / PATCH, width / PATCH])
}

/// Batch and channels of tokens that fill a grid.
fn tokens_of(tokens: &Tensor, [rows, columns]: [usize; 2]) -> Result<[usize; 2]> {
    match *tokens.dims() {
        [batch, count, channels] if Some(count) == rows.checked_mul(columns) && tokens.elem_count() > 0 => {
            Ok([batch, channels])
        }
        _ => {
            let expected = format!("[batch, {rows} * {columns}, channels]");
            Err(AutoencoderError::Shape { what: "tokens", got: tokens.dims().to_vec(), expected })
        }
    }
}

fn no_squares(what: &'static str, x: &Tensor, expected: &str) -> AutoencoderError {
    AutoencoderError::Shape { what, got: x.dims().to_vec(), expected: expected.into() }
}
