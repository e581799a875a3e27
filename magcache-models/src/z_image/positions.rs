//! Where the tokens of image and caption are, and how they are padded.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::{
    ZImageConfig,
    block::Tokens,
    config::{MULTIPLE, PATCH},
};
use crate::{
    nn::RotaryTable,
    ranks::{DataPlane, Sequence},
};

/// The tokens of an image of one size and of a caption of one length.
///
/// Positions are (frame, row, column). The caption counts frames from 1, its padding included; the image lies
/// in the frame after those, and its padding at (0, 0, 0). So where the image is depends on the caption.
#[derive(Clone, Debug)]
pub(super) struct Positions {
    pub(super) image: Tokens,
    pub(super) joint: Tokens,
    /// Rows and columns of the image's tokens.
    pub(super) grid: [usize; 2],
}

/// The streams of the joint sequence.
pub(super) const IMAGE: usize = 0;
pub(super) const CAPTION: usize = 1;

/// `tokens` with the padding up to the next multiple.
pub(super) fn padded(tokens: usize) -> usize {
    tokens.next_multiple_of(MULTIPLE)
}

/// `[1, tokens, dim]` and as often as is needed the row `[1, dim]` that was learned for padding.
pub(super) fn pad(x: &Tensor, row: &Tensor) -> Result<Tensor> {
    let (_, tokens, dim) = x.dims3()?;
    match padded(tokens) - tokens {
        0 => Ok(x.clone()),
        more => Tensor::cat(&[x, &row.to_dtype(x.dtype())?.broadcast_as((1, more, dim))?], 1),
    }
}

/// Angles of positions. They are rounded to f32 before their cosine is taken, as in the reference.
fn table(config: &ZImageConfig, positions: &[[usize; 3]], device: &Device) -> Result<RotaryTable> {
    let frequencies = config.axes_dims.map(|dim| -> Vec<f64> {
        (0..dim / 2).map(|pair| config.rope_theta.powf(-((2 * pair) as f64) / dim as f64)).collect()
    });
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for position in positions {
        for (place, frequencies) in position.iter().zip(&frequencies) {
            for frequency in frequencies {
                let angle = f64::from((*place as f64 * frequency) as f32);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
    }
    RotaryTable::new(cos, &sin, positions.len(), device)
}

/// The tokens of a caption of so many tokens, padding included.
pub(super) fn of_caption(config: &ZImageConfig, caption: usize, device: &Device) -> Result<Tokens> {
    let positions: Vec<[usize; 3]> = (1..=caption).map(|frame| [frame, 0, 0]).collect();
    Ok(Tokens { rope: table(config, &positions, device)?, sequence: Sequence::default() })
}

impl Positions {
    /// Of an image of `grid` tokens behind whose own the caption lies, of so many tokens with its padding.
    pub(super) fn new(
        config: &ZImageConfig,
        grid @ [rows, columns]: [usize; 2],
        caption: &Tokens,
        plane: Option<&Arc<dyn DataPlane>>,
        device: &Device,
    ) -> Result<Self> {
        let frames = caption.rope.tokens()?;
        let most = config.axes_lens;
        if frames + 2 > most[0] || rows > most[1] || columns > most[2] {
            candle_core::bail!(
                "a caption of {frames} and {rows} by {columns} tokens: there are {most:?} positions"
            );
        }
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| [frames + 1, row, column]));
        let mut places: Vec<[usize; 3]> = places.collect();
        let padded = padded(places.len());
        places.resize(padded, [0; 3]);
        let rope = table(config, &places, device)?;
        let alone = Sequence::new(plane, &[padded])?;
        let sequence = Sequence::new(plane, &[padded, frames])?;
        let own = |rope: &RotaryTable, stream: usize| {
            let own = sequence.own(stream);
            rope.narrow(own.start, own.len())
        };
        let image = own(&rope, IMAGE)?;
        let joint = image.then(&own(&caption.rope, CAPTION)?)?;
        let image = Tokens { rope: image, sequence: alone };
        Ok(Self { image, joint: Tokens { rope: joint, sequence }, grid })
    }

    /// Number of tokens of the image.
    pub(super) fn tokens(&self) -> usize {
        self.grid.iter().product()
    }
}

/// Latents `[1, channels, height, width]` as tokens `[1, rows * columns, 4 * channels]`, row by row, the
/// channels of a token in the order (row, column, channel).
pub(super) fn to_tokens(latents: &Tensor) -> Result<Tensor> {
    let (_, channels, height, width) = latents.dims4()?;
    let (rows, columns) = (height / PATCH, width / PATCH);
    let cut = latents.reshape(&[channels, rows, PATCH, columns, PATCH][..])?;
    cut.permute([1, 3, 2, 4, 0])?.reshape((1, rows * columns, PATCH * PATCH * channels))
}

/// The way back.
pub(super) fn from_tokens(tokens: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let channels = tokens.dim(2)? / (PATCH * PATCH);
    let cut = tokens.reshape(&[rows, columns, PATCH, PATCH, channels][..])?;
    cut.permute([4, 0, 2, 1, 3])?.reshape((1, channels, PATCH * rows, PATCH * columns))
}
