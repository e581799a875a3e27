//! Operations that may follow a linear layer while its result is still in the cache.

use pulp::Simd;

use super::{
    activation::{GeluErf, GeluTanh, gelu_erf_of, gelu_tanh_of},
    matmul::Finish,
    modulation::Rows,
    norm::RmsNormRows,
    rotary::TurnedRows,
};

impl Finish for GeluTanh {
    #[inline(always)]
    fn piece<S: Simd>(&self, _: S, values: &mut [f32]) {
        each(values, gelu_tanh_of);
    }
}

impl Finish for GeluErf {
    #[inline(always)]
    fn piece<S: Simd>(&self, _: S, values: &mut [f32]) {
        each(values, gelu_erf_of);
    }
}

/// Replaces every value of a piece. With a constant number of turns, it is computed in whole registers.
#[inline(always)]
fn each(values: &mut [f32], of: impl Fn(f32) -> f32) {
    let (registers, rest) = values.as_chunks_mut::<16>();
    for register in registers {
        for value in register {
            *value = of(*value);
        }
    }
    for value in rest {
        *value = of(*value);
    }
}

/// The product with a tensor of the result's shape.
pub(super) struct Times<'a>(pub(super) &'a [f32]);

impl Finish for Times<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, _: S, row: usize, values: &mut [f32]) {
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
    fn row<S: Simd>(&self, _: S, row: usize, values: &mut [f32]) {
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
    fn row<S: Simd>(&self, _: S, row: usize, values: &mut [f32]) {
        let other = &self.values[row * values.len()..][..values.len()];
        for ((value, other), gate) in values.iter_mut().zip(other).zip(self.gate.row(row)) {
            *value = other + *value * gate;
        }
    }
}

/// A norm over the whole row.
impl Finish for RmsNormRows<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, _: usize, values: &mut [f32]) {
        self.norm(simd, values);
    }
}

/// A norm, then the rotation of each head by the token's position.
impl Finish for TurnedRows<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, row: usize, values: &mut [f32]) {
        self.turn(simd, row, values);
    }
}
