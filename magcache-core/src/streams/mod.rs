//! The tensors that flow between blocks, and their conversion from and to a block's output tuple.

mod kind;
mod stored;

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

pub(crate) use kind::Kind;

use crate::{Role, metrics};

/// The tensors between two blocks, each `[batch, tokens, channels]`, or what stands for each of them. Cloning
/// copies handles, not data.
#[derive(Clone, Debug)]
pub enum Streams<T = Tensor> {
    /// One stream; text enters by cross-attention (Wan).
    Image(T),
    /// Two streams (Flux dual blocks).
    Dual {
        /// The denoised stream.
        image: T,
        /// The text stream.
        text: T,
    },
    /// Both in one sequence (Flux single blocks; Wan's tokens of a picture beside those of the video).
    Joint {
        /// The whole sequence.
        tokens: T,
        /// The place on dimension 1 of the text, or of whatever else is not denoised: a prefix or a suffix.
        text: Range<usize>,
    },
}

impl From<Tensor> for Streams {
    fn from(image: Tensor) -> Self {
        Self::Image(image)
    }
}

/// The pair `(image, text)`.
impl From<(Tensor, Tensor)> for Streams {
    fn from((image, text): (Tensor, Tensor)) -> Self {
        Self::Dual { image, text }
    }
}

impl Streams {
    /// Reads a block's output tuple by the roles of its elements.
    ///
    /// Errors: numbers of tensors and roles that differ, a repeated role, or no image.
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

    /// The denoised stream; a view if it is part of a joint sequence.
    pub fn image(&self) -> Result<Tensor> {
        match self {
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
        }
    }

    /// All streams in one sequence, `[text, image]` if they are apart.
    pub fn sequence(&self) -> Result<Tensor> {
        match self {
            Self::Image(tokens) | Self::Joint { tokens, .. } => Ok(tokens.clone()),
            Self::Dual { image, text } => Tensor::cat(&[text, image], 1),
        }
    }

    /// Lengths of the parts of [`Streams::sequence`], in its order.
    pub(crate) fn parts(&self) -> Result<Vec<usize>> {
        Ok(match self {
            Self::Image(tokens) => vec![tokens.dim(1)?],
            Self::Dual { image, text } => vec![text.dim(1)?, image.dim(1)?],
            Self::Joint { tokens, text } => {
                let image = image_range(tokens, text)?;
                if text.start == 0 { vec![text.len(), image.len()] } else { vec![image.len(), text.len()] }
            }
        })
    }

    /// The denoised stream alone.
    pub fn into_image(self) -> Result<Tensor> {
        match self {
            Self::Image(image) | Self::Dual { image, .. } => Ok(image),
            Self::Joint { .. } => self.image(),
        }
    }

    /// Applies a block that takes and returns the denoised stream.
    pub fn map_image(self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        match self {
            Self::Image(image) => Ok(Self::Image(f(&image)?)),
            Self::Dual { image, text } => Ok(Self::Dual { image: f(&image)?, text }),
            Self::Joint { .. } => bail!("a block of one stream was given a joint sequence"),
        }
    }

    /// Applies a block that takes and returns (image, text); a joint sequence is split first.
    pub fn map_dual(self, f: impl FnOnce(&Tensor, &Tensor) -> Result<(Tensor, Tensor)>) -> Result<Self> {
        let Some(text) = self.text()? else { bail!("a dual block was given no text stream") };
        let (image, text) = f(&self.into_image()?, &text)?;
        Ok(Self::Dual { image, text })
    }

    /// Applies a block that works on one sequence `[text, image]`; dual streams are joined first.
    pub fn map_joint(self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let text = match &self {
            Self::Joint { text, .. } => text.clone(),
            Self::Dual { text, .. } => 0..text.dim(1)?,
            Self::Image(_) => bail!("a joint block was given no text stream"),
        };
        Ok(Self::Joint { tokens: f(&self.sequence()?)?, text })
    }

    /// `self − other`, stream by stream.
    ///
    /// Errors: a stream that only one side has, or shapes that differ.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::Image(a), Self::Image(b)) => Ok(Self::Image(a.sub(b)?)),
            (Self::Joint { tokens: a, text: at }, Self::Joint { tokens: b, text: bt }) if at == bt => {
                Ok(Self::Joint { tokens: a.sub(b)?, text: at.clone() })
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

    /// The same streams with every tensor combined with the one in its place in `other`.
    ///
    /// Errors: streams of another form.
    pub(crate) fn with(&self, other: &Self, f: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(match (self, other) {
            (Self::Image(own), Self::Image(other)) => Self::Image(f(own, other)?),
            (Self::Dual { image, text }, Self::Dual { image: others, text: other }) => {
                Self::Dual { image: f(image, others)?, text: f(text, other)? }
            }
            (Self::Joint { tokens, text }, Self::Joint { tokens: other, .. }) => {
                Self::Joint { tokens: f(tokens, other)?, text: text.clone() }
            }
            _ => bail!("streams of two forms"),
        })
    }

    /// The denoised stream alone, copied out of a joint sequence so that the rest can be freed.
    pub fn without_text(&self) -> Result<Self> {
        match self {
            Self::Image(image) | Self::Dual { image, .. } => Ok(Self::Image(image.clone())),
            Self::Joint { .. } => Ok(Self::Image(self.image()?.contiguous()?)),
        }
    }

    /// The same streams, with the text of `x` if none was stored.
    pub fn or_text_of(self, x: &Self) -> Result<Self> {
        Ok(match (self.text()?, x.text()?) {
            (None, Some(text)) => Self::Dual { image: self.into_image()?, text },
            _ => self,
        })
    }

    /// The same streams, with the numbers of `other` in place of those that are NaN or infinite on the host.
    pub fn finite_or(self, other: &Self) -> Result<Self> {
        if self.is_finite_on_host()? {
            return Ok(self);
        }
        self.with(other, |own, other| own.affine(0.0, 0.0)?.eq(0.0)?.where_cond(own, other))
    }

    /// Whether no stream on the host holds a NaN or an infinity.
    pub fn is_finite_on_host(&self) -> Result<bool> {
        for tensor in self.tensors() {
            if !metrics::is_finite_on_host(tensor)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<T> Streams<T> {
    /// The same streams with every tensor replaced.
    pub fn map<U>(&self, f: impl Fn(&T) -> Result<U>) -> Result<Streams<U>> {
        Ok(match self {
            Self::Image(image) => Streams::Image(f(image)?),
            Self::Dual { image, text } => Streams::Dual { image: f(image)?, text: f(text)? },
            Self::Joint { tokens, text } => Streams::Joint { tokens: f(tokens)?, text: text.clone() },
        })
    }

    /// Every tensor held.
    pub fn tensors(&self) -> Vec<&T> {
        match self {
            Self::Image(image) => vec![image],
            Self::Dual { image, text } => vec![image, text],
            Self::Joint { tokens, .. } => vec![tokens],
        }
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
