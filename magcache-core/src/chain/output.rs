//! What a range of blocks gives, also with an addition that is deferred until the streams are read.

use candle_core::{Result, Tensor};

use crate::Streams;

/// The output of a range of blocks.
#[derive(Clone, Debug)]
pub struct Output {
    /// The streams after the range.
    pub streams: Streams,
    /// Whether every block of the range really ran on exact input.
    pub exact: bool,
}

crate::fields!(Output { streams, exact });

/// The output of a range of blocks, to which the residual that replaces them may still have to be added.
///
/// The addition would take a separate sweep over memory; a last layer that reads every token anyway can fuse
/// it ([`LazyOutput::into_image_terms`]).
#[derive(Clone, Debug)]
pub struct LazyOutput {
    /// Without the residual.
    pub(crate) streams: Streams,
    /// The residual to add; one without text leaves the text stream as it is. `None` if nothing is deferred.
    pub(crate) residual: Option<Streams>,
    pub(crate) exact: bool,
}

impl LazyOutput {
    /// Adds the residual now.
    pub fn added(self) -> Result<Output> {
        let Self { streams, residual, exact } = self;
        let streams = match residual {
            Some(residual) => streams.add(&residual)?,
            None => streams,
        };
        Ok(Output { streams, exact })
    }

    /// The denoised stream alone, and the residual to add to it if the addition was deferred.
    pub fn into_image_terms(self) -> Result<(Tensor, Option<Tensor>)> {
        Ok((self.streams.into_image()?, self.residual.map(Streams::into_image).transpose()?))
    }

    /// Runs `next` on this output.
    pub(crate) fn then<O: Into<Self>>(self, next: impl FnOnce(Streams) -> Result<O>) -> Result<Self> {
        let Output { streams, exact } = self.added()?;
        let out = next(streams)?.into();
        Ok(Self { exact: exact && out.exact, ..out })
    }
}

impl From<Output> for LazyOutput {
    fn from(Output { streams, exact }: Output) -> Self {
        Self { streams, residual: None, exact }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn tensor(tokens: usize, from: f32) -> Tensor {
        let values: Vec<f32> = (0..2 * tokens * 3).map(|i| from + i as f32 / 8.0).collect();
        Tensor::from_vec(values, (2, tokens, 3), &Device::Cpu).unwrap()
    }

    fn bits(t: &Tensor) -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn the_terms_add_up_to_what_is_added() {
        let image = |from| Streams::Image(tensor(5, from));
        let dual = |from| Streams::Dual { image: tensor(5, from), text: tensor(2, -from) };
        let joint = |from| Streams::Joint { tokens: tensor(7, from), text: 5..7 };
        let pairs = [
            (image(0.1), image(3.0)),
            (dual(0.1), image(3.0)),
            (dual(0.1), dual(3.0)),
            (joint(0.1), joint(3.0)),
            (joint(0.1), image(3.0)),
            (dual(0.1), joint(3.0)),
        ];
        for (streams, residual) in pairs {
            let eager = streams.image().unwrap().add(&residual.image().unwrap()).unwrap();
            let text = match (streams.text().unwrap(), residual.text().unwrap()) {
                (Some(text), Some(residual)) => Some(text.add(&residual).unwrap()),
                (text, _) => text,
            };
            let lazy = LazyOutput { streams: streams.clone(), residual: Some(residual), exact: false };
            let added = lazy.clone().added().unwrap();
            assert!(!added.exact);
            assert_eq!(bits(&added.streams.image().unwrap()), bits(&eager));
            assert_eq!(added.streams.text().unwrap().as_ref().map(bits), text.as_ref().map(bits));
            let (x, residual) = lazy.into_image_terms().unwrap();
            assert_eq!(bits(&x.add(&residual.unwrap()).unwrap()), bits(&eager));
            let whole = LazyOutput::from(Output { streams, exact: true });
            assert!(whole.clone().into_image_terms().unwrap().1.is_none() && whole.added().unwrap().exact);
        }
    }
}
