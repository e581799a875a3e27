//! Rotary position embedding by the ids of tokens.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::{
    checkpoint::config::{ConfigError, wrong},
    nn::RotaryTable,
    ranks::{DataPlane, Sequence},
};

/// Frequencies for each of the `N` axes of a position: three in FLUX.1, four in FLUX.2.
///
/// Angles are computed in f64 and their cosines stored as f32, as in diffusers (`FluxPosEmbed`,
/// `Flux2PosEmbed`).
#[derive(Clone, Debug)]
pub struct AxesRope<const N: usize> {
    frequencies: [Vec<f64>; N],
}

/// Positions of a generation's tokens: angles of text tokens, of image tokens, and of both in one
/// sequence, and which of them are here.
///
/// Created once by the model's `positions` and used at every step. Cloning copies handles, not data.
#[derive(Clone, Debug)]
pub struct JointPositions {
    text: RotaryTable,
    image: RotaryTable,
    joint: RotaryTable,
    sequence: Sequence,
    /// Height and width of the denoised picture in tokens, which come first; `[0, 0]` without image tokens.
    grid: [usize; 2],
}

/// The streams of a sequence.
pub(crate) const TEXT: usize = 0;
pub(crate) const IMAGE: usize = 1;

impl<const N: usize> AxesRope<N> {
    /// For heads whose channels are divided among the axes as in `axes_dims_rope`, an even number for each.
    pub fn new(axes_dims_rope: [usize; N], theta: f64) -> Self {
        let frequencies = axes_dims_rope
            .map(|dim| (0..dim / 2).map(|pair| theta.powf(-((2 * pair) as f64) / dim as f64)).collect());
        Self { frequencies }
    }

    /// Angles of text and image tokens from their ids, one per token in the order of the hidden states.
    pub fn positions(
        &self,
        text: &[[f32; N]],
        image: &[[f32; N]],
        device: &Device,
    ) -> candle_core::Result<JointPositions> {
        let tokens = text.len() + image.len();
        let half = self.frequencies.iter().map(Vec::len).sum::<usize>();
        let (mut cos, mut sin) = (Vec::with_capacity(2 * tokens * half), Vec::with_capacity(tokens * half));
        for id in text.iter().chain(image) {
            for (position, frequencies) in id.iter().zip(&self.frequencies) {
                for frequency in frequencies {
                    let angle = f64::from(*position) * frequency;
                    cos.push(angle.cos() as f32);
                    sin.push(angle.sin() as f32);
                }
            }
        }
        let joint = RotaryTable::new(cos, &sin, tokens, device)?;
        Ok(JointPositions {
            text: joint.narrow(0, text.len())?,
            image: joint.narrow(text.len(), image.len())?,
            joint,
            sequence: Sequence::default(),
            grid: grid_of(image),
        })
    }
}

/// Height and width of the picture that the first tokens are: those that share the first axis with the first
/// token, row by row. Pictures that it refers to have another value there.
fn grid_of<const N: usize>(image: &[[f32; N]]) -> [usize; 2] {
    let Some(first) = image.first() else { return [0, 0] };
    let same =
        |axes: usize| image.iter().take_while(|id| id.iter().take(axes).eq(first.iter().take(axes))).count();
    let (tokens, width) = (same(1), same(2).max(1));
    [tokens / width, width]
}

impl JointPositions {
    /// Height and width of the denoised picture in tokens.
    pub(crate) fn grid(&self) -> &[usize] {
        &self.grid
    }

    /// The tokens of the denoised picture, among `[batch, tokens, channels]`, as
    /// `[batch, channels, height, width]`.
    pub(crate) fn on_grid(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        let [height, width] = self.grid;
        let (batch, _, channels) = tokens.dims3()?;
        tokens.narrow(1, 0, height * width)?.transpose(1, 2)?.reshape((batch, channels, height, width))
    }

    /// Angles of text tokens.
    pub fn text(&self) -> &RotaryTable {
        &self.text
    }

    /// Angles of image tokens, including those of reference images.
    pub fn image(&self) -> &RotaryTable {
        &self.image
    }

    /// Angles of text tokens and then image tokens.
    pub fn joint(&self) -> &RotaryTable {
        &self.joint
    }

    /// The tokens, and which of them are here.
    pub(crate) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Those of the tokens that each of several ranks has.
    pub(crate) fn over(&self, plane: Option<&Arc<dyn DataPlane>>) -> candle_core::Result<Self> {
        let (text, image) = (self.text.tokens()?, self.image.tokens()?);
        let sequence = Sequence::new(plane, &[text, image])?;
        if plane.is_none() {
            return Ok(Self { sequence, ..self.clone() });
        }
        let (own_text, own_image) = (sequence.own(TEXT), sequence.own(IMAGE));
        let text = self.text.narrow(own_text.start, own_text.len())?;
        let image = self.image.narrow(own_image.start, own_image.len())?;
        Ok(Self { joint: text.then(&image)?, text, image, sequence, grid: self.grid })
    }

    /// Checks that these are positions of this many tokens.
    pub(crate) fn check(&self, text: usize, image: usize) -> candle_core::Result<()> {
        let ids = (self.text.tokens()?, self.image.tokens()?);
        if ids != (text, image) {
            candle_core::bail!(
                "got {text} text and {image} image tokens, and ids for {} and {}",
                ids.0,
                ids.1
            );
        }
        Ok(())
    }
}

/// Checks that the axes of the rotary embedding divide the channels of a head in pairs.
pub(crate) fn check_axes(axes: &[usize], head_dim: usize) -> Result<(), ConfigError> {
    let fits = axes.iter().all(|dim| dim % 2 == 0) && axes.iter().sum::<usize>() == head_dim;
    if fits {
        return Ok(());
    }
    let expected = format!("expected even numbers that add up to `attention_head_dim` = {head_dim}");
    Err(wrong("axes_dims_rope", &format!("{axes:?}"), expected))
}
