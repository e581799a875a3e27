//! What may follow a linear layer while its result is still in the cache.

use super::{
    activation::gelu_tanh_of, matmul::Finish, modulation::Rows, norm::RmsNormRows, rotary::TurnedRows,
};

/// A vector on top of every row.
pub(super) struct Bias<'a>(pub(super) Option<&'a [f32]>);

impl Finish for Bias<'_> {
    #[inline(always)]
    fn piece(&self, _: usize, column: usize, values: &mut [f32]) {
        if let Some(bias) = self.0 {
            for (value, bias) in values.iter_mut().zip(&bias[column..]) {
                *value += bias;
            }
        }
    }
}

/// A bias, and something else behind it.
pub(super) struct Behind<'a, F> {
    pub(super) bias: Bias<'a>,
    pub(super) then: &'a F,
}

impl<F: Finish> Finish for Behind<'_, F> {
    #[inline(always)]
    fn piece(&self, row: usize, column: usize, values: &mut [f32]) {
        self.bias.piece(row, column, values);
        self.then.piece(row, column, values);
    }

    #[inline(always)]
    fn row(&self, row: usize, values: &mut [f32]) {
        self.then.row(row, values);
    }
}

/// [`gelu_tanh`](super::gelu_tanh).
pub(super) struct GeluTanh;

impl Finish for GeluTanh {
    #[inline(always)]
    fn piece(&self, _: usize, _: usize, values: &mut [f32]) {
        for value in values {
            *value = gelu_tanh_of(*value);
        }
    }
}

/// The product with a tensor of the result's shape.
pub(super) struct Times<'a>(pub(super) &'a [f32]);

impl Finish for Times<'_> {
    #[inline(always)]
    fn row(&self, row: usize, values: &mut [f32]) {
        let other = &self.0[row * values.len()..][..values.len()];
        for (value, other) in values.iter_mut().zip(other) {
            *value *= other;
        }
    }
}

/// The sum with a tensor of the result's shape.
pub(super) struct Add<'a>(pub(super) &'a [f32]);

impl Finish for Add<'_> {
    #[inline(always)]
    fn row(&self, row: usize, values: &mut [f32]) {
        let other = &self.0[row * values.len()..][..values.len()];
        for (value, other) in values.iter_mut().zip(other) {
            *value += other;
        }
    }
}

/// The sum with a tensor of the result's shape, after the product with a gate.
pub(super) struct GatedAdd<'a> {
    pub(super) values: &'a [f32],
    pub(super) gate: Rows<'a>,
}

impl Finish for GatedAdd<'_> {
    #[inline(always)]
    fn row(&self, row: usize, values: &mut [f32]) {
        let other = &self.values[row * values.len()..][..values.len()];
        for ((value, other), gate) in values.iter_mut().zip(other).zip(self.gate.row(row)) {
            *value = other + *value * gate;
        }
    }
}

/// A norm of the whole row.
pub(super) struct RmsNorm<'a>(pub(super) RmsNormRows<'a>);

impl Finish for RmsNorm<'_> {
    #[inline(always)]
    fn row(&self, _: usize, values: &mut [f32]) {
        self.0.norm(values);
    }
}

/// A norm, and the turn of each head by the token's position.
pub(super) struct Turned<'a>(pub(super) TurnedRows<'a>);

impl Finish for Turned<'_> {
    #[inline(always)]
    fn row(&self, row: usize, values: &mut [f32]) {
        self.0.turn(row, values);
    }
}
