//! Rotary position embeddings on interleaved pairs, fused with the RMS norm that precedes them in Wan and
//! Flux.
//!
//! Channels `2i` and `2i + 1` of a head are one complex number, rotated by the angle of the token's position.
//! Source: `RoFormer` (arXiv 2104.09864); the pairing is that of Wan and Flux, not the half-split of `LLaMA`.

use candle_core::{Device, Result, Shape, Tensor};
use magcache_checkpoint::Ops;
use pulp::Simd;

use super::{
    cpu::{Held, RowKernel, each_row, on_cpu, sum_of_squares},
    row_op::RowOp,
};

/// Cosines and sines of every token's angles, `[2, tokens, head_dim / 2]` in f32.
#[derive(Clone, Debug)]
pub struct RotaryTable(Tensor);

impl RotaryTable {
    /// From the cosines and sines of the angles, each `tokens * half` values, token by token.
    pub fn new(mut cos: Vec<f32>, sin: &[f32], tokens: usize, device: &Device) -> Result<Self> {
        let half = cos.len() / tokens.max(1);
        cos.extend_from_slice(sin);
        Ok(Self(Tensor::from_vec(cos, (2, tokens, half), device)?))
    }

    /// The table of `length` tokens starting at `start`.
    pub fn narrow(&self, start: usize, length: usize) -> Result<Self> {
        Ok(Self(self.0.narrow(1, start, length)?.contiguous()?))
    }

    /// These tokens, then those of `other`.
    pub fn then(&self, other: &Self) -> Result<Self> {
        Tensor::cat(&[&self.0, &other.0], 1).map(Self)
    }

    /// Number of tokens.
    pub fn tokens(&self) -> Result<usize> {
        self.0.dim(1)
    }

    /// Whether it can rotate queries or keys of this shape after a norm with this weight.
    pub(super) fn check(&self, x: &Shape, weight: &Tensor) -> Result<()> {
        let (_, tokens, channels) = x.dims3()?;
        let (_, rows, half) = self.0.dims3()?;
        if rows != tokens || half == 0 || channels % (2 * half) != 0 {
            candle_core::bail!("rotary table of {rows} tokens and {half} pairs does not fit {x:?}");
        }
        let width = weight.dims1()?;
        if width == 0 || channels % width != 0 || width % (2 * half) != 0 {
            candle_core::bail!("{width} norm weights for {channels} channels in heads of {}", 2 * half);
        }
        Ok(())
    }

    /// `[2, tokens, head_dim / 2]`, cosines and sines.
    pub(super) fn values(&self) -> &Tensor {
        &self.0
    }

    /// Cosines, `[tokens, head_dim / 2]`.
    pub fn cos(&self) -> Result<Tensor> {
        self.0.get(0)
    }

    /// Sines, `[tokens, head_dim / 2]`.
    pub fn sin(&self) -> Result<Tensor> {
        self.0.get(1)
    }
}

/// `rope(rms_norm(x) * weight)` for queries or keys `[batch, tokens, heads * head_dim]`.
///
/// The norm runs over as many channels as `weight` has: over all heads together (Wan) or over each head on
/// its own (Flux). Then the table rotates each head by the token's position.
pub fn rms_norm_rotary(
    ops: Ops,
    x: &Tensor,
    weight: &Tensor,
    table: &RotaryTable,
    eps: f64,
) -> Result<Tensor> {
    table.check(x.shape(), weight)?;
    if on_cpu(ops, x) {
        let op = "rms-norm-rotary";
        let (weight, turns) = (Held::new(op, weight), Held::new(op, &table.0));
        let rows = TurnedRows::new(weight.values()?, turns.values()?, table.0.dim(2)?, eps as f32);
        return each_row(op, x, &rows);
    }
    RowOp::Turn { weight, table, eps }.run(ops, x, None)
}

/// Norms and rotates rows.
pub(super) struct TurnedRows<'a> {
    eps: f32,
    weight: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
}

impl<'a> TurnedRows<'a> {
    /// `table` is `[2, tokens, head_dim / 2]`; `half` is `head_dim / 2`.
    pub(super) fn new(weight: &'a [f32], table: &'a [f32], half: usize, eps: f32) -> Self {
        let (cos, sin) = table.split_at(table.len() / 2);
        Self { eps, weight, cos, sin, half }
    }

    /// Row `index`, in place.
    #[inline(always)]
    pub(super) fn turn<S: Simd>(&self, simd: S, index: usize, row: &mut [f32]) {
        let (half, width) = (self.half, self.weight.len());
        let token = index % (self.cos.len() / half);
        let (cos, sin) = (&self.cos[token * half..][..half], &self.sin[token * half..][..half]);
        for x in row.chunks_exact_mut(width) {
            let inverse = (sum_of_squares(simd, x, 0.0) / width as f32 + self.eps).sqrt().recip();
            let heads = x.chunks_exact_mut(2 * half).zip(self.weight.chunks_exact(2 * half));
            for (x, weight) in heads {
                let pairs = x.as_chunks_mut::<2>().0.iter_mut().zip(weight.as_chunks::<2>().0);
                for ((x, weight), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                    let (a, b) = (x[0] * inverse * weight[0], x[1] * inverse * weight[1]);
                    *x = [a * cos - b * sin, a * sin + b * cos];
                }
            }
        }
    }
}

impl RowKernel for TurnedRows<'_> {
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, index: usize, out: &mut [f32], x: &[f32]) {
        out.copy_from_slice(x);
        self.turn(simd, index, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn one_pass_equals_the_formula() -> Result<()> {
        let (tokens, half, heads) = (700, 3, 4);
        let angles = (0..tokens * half).map(|i| i as f32 * 0.37);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos(), a.sin())).unzip();
        let table = RotaryTable::new(cos, &sin, tokens, &Device::Cpu)?;
        let x = random(&[2, tokens, heads * 2 * half])?;
        // One norm over all heads, and one for each.
        for width in [heads * 2 * half, 2 * half] {
            let weight = ((random(&[width])? * 0.2)? + 1.0)?;
            let fused = rms_norm_rotary(Ops::Kernels, &x, &weight, &table, 1e-3)?;
            let plain = RowOp::Turn { weight: &weight, table: &table, eps: 1e-3 }.plain(&x, None)?;
            let worst = crate::testing::worst(&fused, &plain)?;
            assert!(worst < 5e-6, "{width}: {worst}");
        }
        Ok(())
    }

    #[test]
    fn a_part_of_a_table_turns_a_part_of_the_tokens() -> Result<()> {
        let angles: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let table = RotaryTable::new(cos, &sin, 5, &Device::Cpu)?;
        let x = random(&[2, 5, 8])?;
        let weight = Tensor::ones(4, candle_core::DType::F32, &Device::Cpu)?;
        let whole = rms_norm_rotary(Ops::Kernels, &x, &weight, &table, 1e-6)?.narrow(1, 2, 3)?;
        let part = rms_norm_rotary(Ops::Kernels, &x.narrow(1, 2, 3)?, &weight, &table.narrow(2, 3)?, 1e-6)?;
        assert_eq!(whole.flatten_all()?.to_vec1::<f32>()?, part.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    #[test]
    fn refuses_a_table_of_another_length() -> Result<()> {
        let table = RotaryTable::new(vec![1.0; 15], &[0.0; 15], 5, &Device::Cpu)?;
        let (x, weight) = (Tensor::zeros((1, 4, 24), candle_core::DType::F32, &Device::Cpu)?, [1f32; 24]);
        let weight = Tensor::new(&weight, &Device::Cpu)?;
        let message = rms_norm_rotary(Ops::Kernels, &x, &weight, &table, 1e-6)
            .expect_err("4 tokens, 5 rows")
            .to_string();
        assert!(message.contains("5 tokens") && message.contains("[1, 4, 24]"), "{message}");
        let x = Tensor::zeros((1, 5, 24), candle_core::DType::F32, &Device::Cpu)?;
        for wrong in [4, 18] {
            let weight = Tensor::ones(wrong, candle_core::DType::F32, &Device::Cpu)?;
            let message = rms_norm_rotary(Ops::Kernels, &x, &weight, &table, 1e-6)
                .expect_err("no whole head")
                .to_string();
            assert!(message.contains(&format!("{wrong} norm weights for 24")), "{message}");
        }
        Ok(())
    }
}
