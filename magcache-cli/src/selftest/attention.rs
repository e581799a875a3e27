//! Attention as runs use it, over many tokens, against the exact one: the same inputs in f64, on the host,
//! for some of the queries.

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_models::{nn, pipeline::noise};

use super::{Findings, Setup, distance, findings::Limit, values};
use crate::args::Group;

/// Queries that are compared, evenly over the sequence.
const ROWS: usize = 32;

/// Queries, keys, heads and channels of a head.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tokens: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
}

/// The largest error of a value, relative to the largest value: of sums in f32, and of results that are
/// rounded twice to eight and to eleven bits.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1.6e-2,
        DType::F16 => 2e-3,
        _ => 2e-5,
    }
}

/// What is checked. A head is a product of its own, so a CPU, which takes minutes for all, has one of them
/// where there are many tokens.
fn shapes(setup: &Setup) -> Vec<Shape> {
    let heads = |few: usize| if setup.device.is_cpu() { few } else { 12 };
    let video = |tokens: usize, few: usize| Shape { tokens, keys: tokens, heads: heads(few), head_dim: 128 };
    let text = Shape { tokens: 1024, keys: 512, heads: heads(4), head_dim: 128 };
    let encoder = Shape { tokens: 512, keys: 512, heads: heads(4), head_dim: 64 };
    let mut all = vec![encoder, text, video(1024, 4)];
    if !setup.quick {
        all.extend([video(8192, 2), video(32_768, 1)]);
    }
    all
}

pub(super) fn check(setup: &Setup, findings: &mut Findings) -> Result<()> {
    for shape in shapes(setup) {
        for dtype in setup.types() {
            setup.go_on()?;
            let Shape { tokens, keys, heads, head_dim } = shape;
            let error = error(setup, shape, *dtype)?;
            let name = format!("{tokens} queries, {keys} keys, {}", dtype.as_str());
            let detail = format!("largest error of {ROWS} rows, {heads} heads of {head_dim}, against f64");
            findings.judge(Group::Attention, name, error, Limit::AtMost(tolerance(*dtype)), detail);
        }
    }
    Ok(())
}

fn error(setup: &Setup, Shape { tokens, keys, heads, head_dim }: Shape, dtype: DType) -> Result<f64> {
    let random = |seed: u64, length: usize| -> Result<Tensor> {
        Ok(noise(seed, (1, length, heads * head_dim), &setup.device)?.to_dtype(dtype)?)
    };
    let (q, k, v) = (random(1, tokens)?, random(2, keys)?, random(3, keys)?);
    let got = nn::attention(setup.ops, &q, &k, &v, heads)?;
    let rows: Vec<u32> = (0..ROWS.min(tokens)).map(|i| (i * tokens / ROWS.min(tokens)) as u32).collect();
    let rows = Tensor::new(rows, &setup.device)?;
    let chosen = |x: &Tensor| values(&x.index_select(&rows, 1)?);
    let want = exact(&chosen(&q)?, &values(&k)?, &values(&v)?, heads, head_dim);
    Ok(distance(&chosen(&got)?, &want))
}

/// Softmax attention of rows `[queries, heads * head_dim]` in f64, as it is written down.
fn exact(q: &[f64], k: &[f64], v: &[f64], heads: usize, head_dim: usize) -> Vec<f64> {
    let width = heads * head_dim;
    let scale = (head_dim as f64).sqrt().recip();
    let mut out = vec![0.0; q.len()];
    for (q, out) in q.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        for (head, (q, out)) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)).enumerate() {
            let of = |row: &'_ [f64]| -> Vec<f64> { row[head * head_dim..][..head_dim].to_vec() };
            let dot = |k: &[f64]| scale * q.iter().zip(of(k)).map(|(q, k)| q * k).sum::<f64>();
            let scores: Vec<f64> = k.chunks_exact(width).map(dot).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (weight, v) in weights.iter().zip(v.chunks_exact(width)) {
                out.iter_mut().zip(of(v)).for_each(|(out, v)| *out += weight / sum * v);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_one_is_a_mean_weighted_by_the_scores() {
        // Scores 0 and ln 3 of two keys: a quarter of the first value and three of the second.
        let q = [3f64.ln(), 0.0, 0.0, 0.0];
        let (k, v) = ([0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0], [4.0, 1.0, 0.0, 0.0, 8.0, 2.0, 0.0, 0.0]);
        let out = exact(&q, &k, &v, 1, 4);
        assert!((out[0] - 7.0).abs() < 1e-12 && (out[1] - 1.75).abs() < 1e-12, "{out:?}");
        // Each head sees its own channels alone.
        let two = exact(
            &[q, q].concat(),
            &[[0.0; 4], [0.0; 4], [0.0; 4], [2.0, 0.0, 0.0, 0.0]].concat(),
            &[[4.0; 4], [4.0; 4], [8.0; 4], [8.0; 4]].concat(),
            2,
            4,
        );
        assert!((two[0] - 6.0).abs() < 1e-12 && (two[4] - 7.0).abs() < 1e-12, "{two:?}");
    }
}
