//! Enlarging pictures.

use candle_core::{Result, Tensor};

/// Every pixel four times: `[batch, frames, height, width, channels]` to twice the height and width.
pub fn nearest(x: &Tensor) -> Result<Tensor> {
    let (batch, frames, height, width, channels) = x.dims5()?;
    x.reshape(&[batch * frames, height, 1, width, 1, channels])?
        .broadcast_as(&[batch * frames, height, 2, width, 2, channels])?
        .reshape((batch, frames, 2 * height, 2 * width, channels))
}
