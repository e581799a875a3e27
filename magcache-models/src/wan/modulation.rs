//! Shift, scale and gate of tokens that have one timestep, one each, or two.

use candle_core::{Result, Tensor};

use crate::{
    checkpoint::Ops,
    mmdit::modulation::Modulation,
    nn::{self, Linear},
};

/// What the timestep gives to the modulation of every block, from the time embedder.
#[derive(Clone, Debug)]
pub(super) enum TimestepProjection {
    /// `[batch, 6 * inner]` for all tokens, or `[batch, tokens, 6 * inner]`.
    Whole(Tensor),
    /// `[2, 6 * inner]`: a row for the first `tokens` tokens of the only sample, and one for the others.
    Parts {
        /// Both rows.
        rows: Tensor,
        /// Tokens of the first part.
        tokens: usize,
    },
}

impl TimestepProjection {
    /// What tells one step from the next: the projection, without the rows of tokens whose timestep never
    /// changes.
    pub(super) fn signal(&self) -> Result<Tensor> {
        match self {
            Self::Whole(rows) => Ok(rows.clone()),
            Self::Parts { rows, .. } => rows.narrow(0, 0, 1),
        }
    }
}

/// The modulations of one layer of a block: of all tokens, or of the first ones and of the others.
pub(super) struct Parts {
    first: Modulation,
    rest: Option<(usize, Modulation)>,
}

impl Parts {
    /// Those of the self-attention and of the feed-forward, from a block's table `[1, 6, inner]`, which is
    /// added to the projection.
    pub(super) fn of_block(ops: Ops, table: &Tensor, time: &TimestepProjection) -> Result<[Self; 2]> {
        let table = table.flatten_from(1)?.unsqueeze(1)?;
        let split = |rows: &Tensor| Modulation::split::<2>(ops, &rows.broadcast_add(&table)?);
        match time {
            TimestepProjection::Whole(rows) if rows.rank() == 2 => {
                Ok(split(&rows.unsqueeze(1)?)?.map(|first| Self { first, rest: None }))
            }
            TimestepProjection::Whole(rows) => Ok(split(rows)?.map(|first| Self { first, rest: None })),
            TimestepProjection::Parts { rows, tokens } => {
                let [attention, feed_forward] = split(&rows.narrow(0, 0, 1)?.unsqueeze(1)?)?;
                let [rest_attention, rest_feed_forward] = split(&rows.narrow(0, 1, 1)?.unsqueeze(1)?)?;
                Ok([
                    Self { first: attention, rest: Some((*tokens, rest_attention)) },
                    Self { first: feed_forward, rest: Some((*tokens, rest_feed_forward)) },
                ])
            }
        }
    }

    /// Input of the layer: `x` `[batch, tokens, inner]`, normed, scaled and shifted.
    pub(super) fn norm(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        self.each([x], |modulation, [x]| modulation.norm(&x, eps))
    }

    /// The input of the first part alone, `[batch, tokens of that part, inner]`.
    pub(super) fn norm_first(&self, x: &Tensor, eps: f64) -> Result<Tensor> {
        match &self.rest {
            None => self.first.norm(x, eps),
            Some((tokens, _)) => self.first.norm(&x.narrow(1, 0, *tokens)?, eps),
        }
    }

    /// `x + gate * y`, where `y` is the layer's result.
    pub(super) fn add(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.each([x, y], |modulation, [x, y]| modulation.add(&x, &y))
    }

    /// `x + gate * outer(gelu(inner(norm(x))))`.
    pub(super) fn feed_forward(
        &self,
        x: &Tensor,
        inner: &Linear,
        outer: &Linear,
        eps: f64,
    ) -> Result<Tensor> {
        self.each([x], |modulation, [x]| {
            nn::feed_forward(&modulation.norm(&x, eps)?, inner, outer, &x, modulation.gate())
        })
    }

    fn each<const N: usize>(
        &self,
        all: [&Tensor; N],
        of: impl Fn(&Modulation, [Tensor; N]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Some((tokens, rest)) = &self.rest else { return of(&self.first, all.map(Clone::clone)) };
        let part = |start: usize, length: usize| {
            let parts = all.iter().map(|x| x.narrow(1, start, length)).collect::<Result<Vec<_>>>()?;
            parts.try_into().map_err(|_| candle_core::Error::msg("as many parts as tensors"))
        };
        let others = all[0].dim(1)? - tokens;
        Tensor::cat(&[of(&self.first, part(0, *tokens)?)?, of(rest, part(*tokens, others)?)?], 1)
    }
}
