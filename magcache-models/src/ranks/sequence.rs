//! The tokens of a forward, and attention over all of them when each rank has its own.

use std::{ops::Range, sync::Arc};

use candle_core::{Result, Tensor};
use magcache_core::{group::share, hint};

use super::DataPlane;
use crate::{checkpoint::Ops, nn::attention};

/// Tokens of one or several streams that attend to each other, each stream divided among ranks (Ulysses:
/// Jacobs et al., "`DeepSpeed` Ulysses", arXiv 2309.14509).
///
/// Between two layers a rank has its own tokens, stream by stream. For attention it gets all tokens of
/// its own heads, in the order of the streams, and with the result they go back.
#[derive(Clone, Debug, Default)]
pub struct Sequence {
    /// `None` if all tokens are here.
    plane: Option<Arc<dyn DataPlane>>,
    /// Tokens of every stream, on all ranks.
    streams: Vec<usize>,
}

impl Sequence {
    /// Streams of so many tokens; with a plane, divided among its ranks.
    ///
    /// Errors: fewer tokens than ranks.
    pub fn new(plane: Option<&Arc<dyn DataPlane>>, streams: &[usize]) -> Result<Self> {
        let plane = plane.filter(|plane| plane.size() > 1).cloned();
        if let (Some(plane), Some(few)) = (&plane, streams.iter().min())
            && *few < plane.size()
        {
            let message = format!("{few} tokens cannot be divided among {} ranks", plane.size());
            return Err(hint::tensor_error(message, "fewer ranks: `parallel = \"ulysses=N\"`"));
        }
        Ok(Self { plane, streams: streams.to_vec() })
    }

    /// Whether some of the tokens are on other ranks.
    pub fn is_divided(&self) -> bool {
        self.plane.is_some()
    }

    fn share(&self, n: usize, place: usize) -> Range<usize> {
        share(n, self.plane.as_ref().map_or(1, |plane| plane.size()), place)
    }

    /// The tokens of a stream that are here.
    pub fn own(&self, stream: usize) -> Range<usize> {
        let place = self.plane.as_ref().map_or(0, |plane| plane.place());
        self.share(self.streams.get(stream).copied().unwrap_or(0), place)
    }

    /// The tokens that are here of a whole stream, `[batch, tokens, ..]`.
    pub fn narrow(&self, x: &Tensor, stream: usize) -> Result<Tensor> {
        if self.plane.is_none() {
            return Ok(x.clone());
        }
        let own = self.own(stream);
        x.narrow(1, own.start, own.len())?.contiguous()
    }

    /// The whole stream `[batch, tokens, channels]` from the tokens that are here.
    pub fn gather(&self, x: &Tensor, stream: usize) -> Result<Tensor> {
        let Some(plane) = &self.plane else { return Ok(x.clone()) };
        let (batch, _, channels) = x.dims3()?;
        let tokens = self.streams.get(stream).copied().unwrap_or(0);
        let shapes: Vec<_> =
            (0..plane.size()).map(|place| vec![batch, self.share(tokens, place).len(), channels]).collect();
        let all = plane.all_to_all("the prediction", vec![x.contiguous()?; plane.size()], &shapes)?;
        Tensor::cat(&all, 1)
    }

    /// Every token attends to every token, [`attention`]: queries, keys and values of the tokens that are
    /// here, `[batch, tokens, heads * head_dim]` each, to the same shape.
    pub fn attention(&self, ops: Ops, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
        let Some(plane) = &self.plane else { return attention(ops, q, k, v, heads) };
        let own = self.share(heads, plane.place()).len();
        let [q, k, v] = self.to_heads(plane.as_ref(), [q, k, v], heads)?;
        let attended = attention(ops, &q, &k, &v, own)?;
        self.to_tokens(plane.as_ref(), &attended, heads)
    }

    /// Tokens of all streams at a place.
    fn tokens_at(&self, place: usize) -> usize {
        self.streams.iter().map(|n| self.share(*n, place).len()).sum()
    }

    /// `[batch, own tokens, channels]` to `[batch, tokens, channels of own heads]`.
    fn to_heads(&self, plane: &dyn DataPlane, all: [&Tensor; 3], heads: usize) -> Result<[Tensor; 3]> {
        let (batch, _, channels) = all[0].dims3()?;
        let dim = channels / heads.max(1);
        let mut parts = Vec::with_capacity(plane.size());
        for place in 0..plane.size() {
            let to = self.share(heads, place);
            let theirs = all.iter().map(|x| x.narrow(2, to.start * dim, to.len() * dim));
            parts.push(Tensor::cat(&theirs.collect::<Result<Vec<_>>>()?, 2)?);
        }
        let own = self.share(heads, plane.place()).len() * dim;
        let shapes: Vec<_> =
            (0..plane.size()).map(|place| vec![batch, self.tokens_at(place), 3 * own]).collect();
        let got = plane.all_to_all("queries, keys and values", parts, &shapes)?;
        // From every rank the same streams, one after the other: now stream by stream.
        let mut ordered = Vec::with_capacity(got.len() * self.streams.len());
        for stream in 0..self.streams.len() {
            for (place, got) in got.iter().enumerate() {
                let before = self.streams.iter().take(stream).map(|n| self.share(*n, place).len()).sum();
                ordered.push(got.narrow(1, before, self.share(self.streams[stream], place).len())?);
            }
        }
        let whole = Tensor::cat(&ordered, 1)?;
        let part = |i: usize| whole.narrow(2, i * own, own);
        Ok([part(0)?, part(1)?, part(2)?])
    }

    /// The way back: `[batch, tokens, channels of own heads]` to `[batch, own tokens, channels]`.
    fn to_tokens(&self, plane: &dyn DataPlane, x: &Tensor, heads: usize) -> Result<Tensor> {
        let (batch, _, own) = x.dims3()?;
        let dim = own / self.share(heads, plane.place()).len().max(1);
        let mut parts = Vec::with_capacity(plane.size());
        for place in 0..plane.size() {
            let (mut first, mut theirs) = (0, Vec::new());
            for n in &self.streams {
                let to = self.share(*n, place);
                theirs.push(x.narrow(1, first + to.start, to.len())?);
                first += n;
            }
            parts.push(Tensor::cat(&theirs, 1)?);
        }
        let tokens = self.tokens_at(plane.place());
        let shapes: Vec<_> = (0..plane.size())
            .map(|place| vec![batch, tokens, self.share(heads, place).len() * dim])
            .collect();
        Tensor::cat(&plane.all_to_all("attention", parts, &shapes)?, 2)
    }
}
