//! What flows between two blocks, and how it is read from and written to a block's output tuple.

mod kind;
mod stored;

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

pub(crate) use kind::Kind;

use crate::metrics;

/// What one element of a block's output tuple is: the "residual tuple indices" of a model's metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The hidden states that are denoised.
    Image,
    /// The text stream beside them.
    Text,
}

/// The tensors between two blocks, each `[batch, tokens, channels]`. Cloning copies handles, not data.
#[derive(Clone, Debug)]
pub enum Streams {
    /// One stream; text enters by cross-attention (Wan).
    Image(Tensor),
    /// Two streams (Flux dual blocks).
    Dual {
        /// The denoised stream.
        image: Tensor,
        /// The text stream.
        text: Tensor,
    },
    /// Both in one sequence (Flux single blocks).
    Joint {
        /// The whole sequence.
        tokens: Tensor,
        /// Where text lies on dimension 1: a prefix or a suffix.
        text: Range<usize>,
    },
    /// What went into skipped blocks, and what they are taken to add. Whoever reads a stream reads the sum, and no block or
    /// hook is given one; a model whose last layer can add on its way through the tokens takes it apart
    /// ([`Streams::into_image_terms`]).
    Sum {
        /// What went in.
        x: Box<Streams>,
        /// What is added; without text it leaves that stream as it is.
        residual: Box<Streams>,
    },
}

impl Streams {
    /// Reads a block's output tuple by the roles of its elements.
    ///
    /// Errors: another number of tensors than roles, a role twice, or no image.
    pub fn from_outputs(roles: &[Role], tensors: Vec<Tensor>) -> Result<Self> {
        if roles.len() != tensors.len() {
            bail!("a block returned {} tensors, its metadata names {}", tensors.len(), roles.len());
        }
        let (mut image, mut text) = (None, None);
        for (role, tensor) in roles.iter().zip(tensors) {
            let place = match role {
                Role::Image => &mut image,
                Role::Text => &mut text,
            };
            if place.replace(tensor).is_some() {
                bail!("a block's metadata names the role {role:?} twice");
            }
        }
        match (image, text) {
            (Some(image), Some(text)) => Ok(Self::Dual { image, text }),
            (Some(image), None) => Ok(Self::Image(image)),
            (None, _) => bail!("a block's metadata names no image output"),
        }
    }

    /// The tuple that a block with these roles takes and returns; the inverse of [`Streams::from_outputs`].
    pub fn into_outputs(self, roles: &[Role]) -> Result<Vec<Tensor>> {
        let text = self.text()?;
        let image = self.image()?;
        roles
            .iter()
            .map(|role| match (role, &text) {
                (Role::Image, _) => Ok(image.clone()),
                (Role::Text, Some(text)) => Ok(text.clone()),
                (Role::Text, None) => bail!("a block wants a text stream and there is none"),
            })
            .collect()
    }

    /// `self + residual`, added when a stream is read. A residual without text leaves the text stream as it is.
    #[must_use]
    pub fn plus(self, residual: Self) -> Self {
        Self::Sum { x: Box::new(self), residual: Box::new(residual) }
    }

    /// The streams themselves: a sum is added now.
    pub fn added(self) -> Result<Self> {
        match self {
            Self::Sum { x, residual } => x.added()?.add(&residual),
            streams => Ok(streams),
        }
    }

    /// The denoised stream, a view where it lies in a joint sequence.
    pub fn image(&self) -> Result<Tensor> {
        match self {
            Self::Sum { x, residual } => x.image()?.add(&residual.image()?),
            Self::Image(image) | Self::Dual { image, .. } => Ok(image.clone()),
            Self::Joint { tokens, text } => {
                let image = image_range(tokens, text)?;
                tokens.narrow(1, image.start, image.len())
            }
        }
    }

    /// The text stream, if there is one.
    pub fn text(&self) -> Result<Option<Tensor>> {
        match self {
            Self::Image(_) => Ok(None),
            Self::Dual { text, .. } => Ok(Some(text.clone())),
            Self::Joint { tokens, text } => tokens.narrow(1, text.start, text.len()).map(Some),
            Self::Sum { x, residual } => match (x.text()?, residual.text()?) {
                (Some(x), Some(residual)) => x.add(&residual).map(Some),
                (text, None) => Ok(text),
                (None, Some(_)) => bail!("a residual has text and the stream none"),
            },
        }
    }

    /// The denoised stream alone.
    pub fn into_image(self) -> Result<Tensor> {
        match self {
            Self::Image(image) | Self::Dual { image, .. } => Ok(image),
            streams => streams.image(),
        }
    }

    /// The denoised stream alone, and what is to be added to it where it is a sum.
    pub fn into_image_terms(self) -> Result<(Tensor, Option<Tensor>)> {
        match self {
            Self::Sum { x, residual } => Ok((x.into_image()?, Some(residual.into_image()?))),
            streams => Ok((streams.into_image()?, None)),
        }
    }

    /// Applies a block that takes and returns the denoised stream.
    pub fn map_image(self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        match self {
            Self::Image(image) => Ok(Self::Image(f(&image)?)),
            Self::Dual { image, text } => Ok(Self::Dual { image: f(&image)?, text }),
            Self::Joint { .. } => bail!("a block of one stream was given a joint sequence"),
            sum @ Self::Sum { .. } => sum.added()?.map_image(f),
        }
    }

    /// Applies a block that takes and returns (image, text); a joint sequence is split first.
    pub fn map_dual(self, f: impl FnOnce(&Tensor, &Tensor) -> Result<(Tensor, Tensor)>) -> Result<Self> {
        let Some(text) = self.text()? else { bail!("a dual block was given no text stream") };
        let (image, text) = f(&self.into_image()?, &text)?;
        Ok(Self::Dual { image, text })
    }

    /// Applies a block that works on `[text, image]` in one sequence; dual streams are joined on entry.
    pub fn map_joint(self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let (tokens, text) = match self {
            Self::Joint { tokens, text } => (tokens, text),
            Self::Dual { image, text } => (Tensor::cat(&[&text, &image], 1)?, 0..text.dim(1)?),
            Self::Image(_) => bail!("a joint block was given no text stream"),
            sum @ Self::Sum { .. } => return sum.added()?.map_joint(f),
        };
        Ok(Self::Joint { tokens: f(&tokens)?, text })
    }

    /// `self − other`, stream by stream.
    ///
    /// Errors: a stream that only one of them has, or shapes that differ.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::Image(a), Self::Image(b)) => Ok(Self::Image(a.sub(b)?)),
            (Self::Joint { tokens: a, text: at }, Self::Joint { tokens: b, text: bt }) if at == bt => {
                Ok(Self::Joint { tokens: a.sub(b)?, text: at.clone() })
            }
            (Self::Sum { .. }, _) | (_, Self::Sum { .. }) => {
                self.clone().added()?.sub(&other.clone().added()?)
            }
            _ => match (self.text()?, other.text()?) {
                (Some(a), Some(b)) => {
                    Ok(Self::Dual { image: self.image()?.sub(&other.image()?)?, text: a.sub(&b)? })
                }
                (None, None) => Ok(Self::Image(self.image()?.sub(&other.image()?)?)),
                _ => bail!("one of two streams has text and the other none"),
            },
        }
    }

    /// `self + residual`. A residual without text leaves the text stream as it is.
    pub fn add(&self, residual: &Self) -> Result<Self> {
        match (self, residual) {
            (Self::Image(x), Self::Image(r)) => Ok(Self::Image(x.add(r)?)),
            (Self::Dual { image, text }, Self::Image(r)) => {
                Ok(Self::Dual { image: image.add(r)?, text: text.clone() })
            }
            (Self::Joint { tokens: x, text: xt }, Self::Joint { tokens: r, text: rt }) if xt == rt => {
                Ok(Self::Joint { tokens: x.add(r)?, text: xt.clone() })
            }
            (Self::Sum { .. }, _) | (_, Self::Sum { .. }) => {
                self.clone().added()?.add(&residual.clone().added()?)
            }
            _ => {
                let image = self.image()?.add(&residual.image()?)?;
                match (self.text()?, residual.text()?) {
                    (Some(x), Some(r)) => Ok(Self::Dual { image, text: x.add(&r)? }),
                    (Some(text), None) => Ok(Self::Dual { image, text }),
                    (None, None) => Ok(Self::Image(image)),
                    (None, Some(_)) => bail!("a residual has text and the stream none"),
                }
            }
        }
    }

    /// The same streams with every tensor replaced.
    pub fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(match self {
            Self::Image(image) => Self::Image(f(image)?),
            Self::Dual { image, text } => Self::Dual { image: f(image)?, text: f(text)? },
            Self::Joint { tokens, text } => Self::Joint { tokens: f(tokens)?, text: text.clone() },
            Self::Sum { .. } => self.clone().added()?.map(f)?,
        })
    }

    /// Only the denoised stream, copied out of a joint sequence so that the rest can be freed.
    pub fn without_text(&self) -> Result<Self> {
        match self {
            Self::Image(image) | Self::Dual { image, .. } => Ok(Self::Image(image.clone())),
            Self::Joint { .. } | Self::Sum { .. } => Ok(Self::Image(self.image()?.contiguous()?)),
        }
    }

    /// The same streams; text that was not worth storing is that of `x`.
    pub fn or_text_of(self, x: &Self) -> Result<Self> {
        Ok(match (self.text()?, x.text()?) {
            (None, Some(text)) => Self::Dual { image: self.into_image()?, text },
            _ => self,
        })
    }

    /// Every tensor held.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Image(image) => vec![image],
            Self::Dual { image, text } => vec![image, text],
            Self::Joint { tokens, .. } => vec![tokens],
            Self::Sum { x, residual } => [x.tensors(), residual.tensors()].concat(),
        }
    }

    /// False when a stream on the host holds a NaN or an infinity.
    pub fn is_finite_on_host(&self) -> Result<bool> {
        for tensor in self.tensors() {
            if !metrics::is_finite_on_host(tensor)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn image_range(tokens: &Tensor, text: &Range<usize>) -> Result<Range<usize>> {
    let len = tokens.dim(1)?;
    match (text.start, text.end) {
        (0, end) if end <= len => Ok(end..len),
        (start, end) if end == len && start <= end => Ok(0..start),
        _ => bail!("text lies at {text:?} of {len} tokens; it must be a prefix or a suffix"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::snapshot::Snapshot;

    fn tensor(tokens: usize, from: f32) -> Tensor {
        let values: Vec<f32> = (0..2 * tokens * 3).map(|i| from + i as f32 / 8.0).collect();
        Tensor::from_vec(values, (2, tokens, 3), &Device::Cpu).unwrap()
    }

    fn bits(t: &Tensor) -> Vec<u32> {
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    /// Every stream, the image first.
    fn all(streams: &Streams) -> Vec<Vec<u32>> {
        let tensors = [Some(streams.image().unwrap()), streams.text().unwrap()];
        tensors.iter().flatten().map(bits).collect()
    }

    /// Streams and residuals that go together.
    fn pairs() -> Vec<(Streams, Streams)> {
        let image = |from| Streams::Image(tensor(5, from));
        let dual = |from| Streams::Dual { image: tensor(5, from), text: tensor(2, -from) };
        let joint = |from| Streams::Joint { tokens: tensor(7, from), text: 5..7 };
        vec![
            (image(0.1), image(3.0)),
            (dual(0.1), image(3.0)),
            (dual(0.1), dual(3.0)),
            (joint(0.1), joint(3.0)),
            (joint(0.1), image(3.0)),
            (dual(0.1), joint(3.0)),
        ]
    }

    #[test]
    fn a_sum_reads_as_if_it_had_been_added() {
        for (x, residual) in pairs() {
            let (sum, eager) = (x.clone().plus(residual.clone()), x.add(&residual).unwrap());
            let same = |what: &str, a: Result<Streams>, b: Result<Streams>| {
                assert_eq!(all(&a.unwrap()), all(&b.unwrap()), "{what} of {x:?} and {residual:?}");
            };
            same("the sum", Ok(sum.clone()), Ok(eager.clone()));
            same("added", sum.clone().added(), Ok(eager.clone()));
            same("sub", sum.sub(&x), eager.sub(&x));
            same("sub from", x.sub(&sum), x.sub(&eager));
            same("add", sum.add(&residual), eager.add(&residual));
            same("add to", x.add(&x.clone().plus(residual.clone())), x.add(&eager));
            same("twice", Ok(sum.clone().plus(residual.clone())), eager.add(&residual));
            same("map", sum.map(Tensor::sqr), eager.map(Tensor::sqr));
            same("without text", sum.without_text(), eager.without_text());
            same("with text of", sum.clone().or_text_of(&x), eager.clone().or_text_of(&x));
            assert_eq!(bits(&sum.clone().into_image().unwrap()), bits(&eager.image().unwrap()));
            let (image, added) = sum.clone().into_image_terms().unwrap();
            assert_eq!(bits(&(image + added.unwrap()).unwrap()), bits(&eager.image().unwrap()));
            assert!(eager.clone().into_image_terms().unwrap().1.is_none());
            let mut snapshot = Snapshot::default();
            snapshot.writer().field("streams", &sum);
            let read: Streams = snapshot.reader(&Device::Cpu).field("streams").unwrap();
            assert!(matches!(read, Streams::Sum { .. }));
            same("what is read back", Ok(read), Ok(eager.clone()));
            if eager.text().unwrap().is_some() {
                let block = |t: &Tensor| t.sqr();
                same("map_joint", sum.clone().map_joint(block), eager.clone().map_joint(block));
                let block = |image: &Tensor, text: &Tensor| Ok((image.sqr()?, text.neg()?));
                same("map_dual", sum.map_dual(block), eager.map_dual(block));
            } else {
                same("map_image", sum.map_image(Tensor::sqr), eager.map_image(Tensor::sqr));
            }
        }
    }
}
