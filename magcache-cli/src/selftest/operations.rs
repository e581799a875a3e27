//! Each operation of a block as the device runs it, against its plain composition of candle's operations.

use anyhow::Result;
use candle_core::{DType, Tensor};
use magcache_models::{
    checkpoint::Ops,
    nn::{self, Linear, RmsNorm, RotaryTable},
    pipeline::noise,
};

use super::{Findings, Setup, distance, findings::Limit, values};
use crate::args::Group;

const EPS: f64 = 1e-6;

/// Tensors of one block: hidden states `[1, tokens, channels]`, what modulates them, weights.
struct Inputs {
    x: Tensor,
    y: Tensor,
    /// `[1, 1, channels]`, f32 as modulation is.
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    /// `[channels]`, f32 as norms have it.
    weight: Tensor,
    /// `[channels, channels]`.
    square: Tensor,
    /// `[4 * channels, channels]` and back.
    wide: Tensor,
    narrow: Tensor,
    bias: Tensor,
    /// `[1, 1, tokens, tokens]`.
    mask: Tensor,
    table: RotaryTable,
    heads: usize,
}

type Operation = fn(Ops, &Inputs) -> candle_core::Result<Tensor>;

/// Every operation that takes [`Ops`], and the layers that are fused with one.
const OPERATIONS: [(&str, Operation); 16] = [
    ("layer_norm_modulate", |ops, i| nn::layer_norm_modulate(ops, &i.x, &i.shift, &i.scale, EPS)),
    ("gated_add", |ops, i| nn::gated_add(ops, &i.x, &i.y, &i.gate)),
    ("add", |ops, i| nn::add(ops, &i.x, &i.y)),
    ("rms_norm_rotary", |ops, i| nn::rms_norm_rotary(ops, &i.x, &i.weight, &i.table, EPS)),
    ("rms_norm", |ops, i| norm(ops, i).forward(&i.x)),
    ("gelu_tanh", |ops, i| nn::gelu_tanh(ops, &i.x)),
    ("gelu_erf", |ops, i| nn::gelu_erf(ops, &i.x)),
    ("silu", |ops, i| nn::silu(ops, &i.x)),
    ("swiglu", |ops, i| nn::swiglu(ops, &i.x)),
    ("attention", |ops, i| nn::attention(ops, &i.x, &i.y, &i.x, i.heads)),
    ("attention_with_bias", |ops, i| nn::attention_with_bias(ops, &i.x, &i.y, &i.x, i.heads, 0.125, &i.mask)),
    ("linear", |ops, i| square(ops, i)?.forward(&i.x)),
    ("linear, gated and added", |ops, i| square(ops, i)?.forward_gated_add(&i.x, &i.y, &i.gate)),
    ("linear, normed", |ops, i| square(ops, i)?.forward_rms_norm(&i.x, &norm(ops, i))),
    ("linear, normed and rotated", |ops, i| {
        square(ops, i)?.forward_rms_norm_rotary(&i.x, &norm(ops, i), &i.table)
    }),
    ("feed_forward", |ops, i| {
        let layer = |weight: &Tensor| Linear::new(ops, weight.clone(), None);
        nn::feed_forward(&i.x, &layer(&i.wide)?, &layer(&i.narrow)?, &i.y, &i.gate)
    }),
];

fn square(ops: Ops, i: &Inputs) -> candle_core::Result<Linear> {
    Linear::new(ops, i.square.clone(), Some(i.bias.clone()))
}

fn norm(ops: Ops, i: &Inputs) -> RmsNorm {
    RmsNorm::new(ops, i.weight.clone(), EPS)
}

/// The largest difference, relative to the largest value: sums in another order, or one more rounding to
/// eight and to eleven bits.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1.6e-2,
        DType::F16 => 2e-3,
        _ => 1e-5,
    }
}

pub(super) fn check(setup: &Setup, findings: &mut Findings) -> Result<()> {
    let (tokens, heads) = if setup.quick { (100, 2) } else { (1000, 12) };
    for dtype in setup.types() {
        let inputs = Inputs::random(setup, *dtype, tokens, heads)?;
        for (name, operation) in OPERATIONS {
            setup.go_on()?;
            let [got, want] = [setup.ops, Ops::Reference].map(|ops| operation(ops, &inputs));
            let error = distance(&values(&got?)?, &values(&want?)?);
            let detail = format!("largest difference, {tokens} tokens of {} channels", heads * 128);
            let limit = Limit::AtMost(tolerance(*dtype));
            findings.judge(Group::Operations, format!("{name}, {}", dtype.as_str()), error, limit, detail);
        }
    }
    Ok(())
}

impl Inputs {
    fn random(setup: &Setup, dtype: DType, tokens: usize, heads: usize) -> Result<Self> {
        const HALF: usize = 64;
        let (channels, device) = (heads * 2 * HALF, &setup.device);
        let mut seed = 0;
        let mut random = |shape: &[usize], scale: f64| -> Result<Tensor> {
            seed += 1;
            Ok((noise(seed, shape, device)? * scale)?)
        };
        let angle = |i: usize| (i / HALF) as f32 * 10_000f32.powf(-((i % HALF) as f32) / HALF as f32);
        let angles: Vec<f32> = (0..tokens * HALF).map(angle).collect();
        let sines: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
        let table = RotaryTable::new(angles.into_iter().map(f32::cos).collect(), &sines, tokens, device)?;
        let small = (channels as f64).sqrt().recip();
        let rows = [1, 1, channels];
        Ok(Self {
            x: random(&[1, tokens, channels], 1.0)?.to_dtype(dtype)?,
            y: random(&[1, tokens, channels], 1.0)?.to_dtype(dtype)?,
            shift: random(&rows, 0.5)?,
            scale: random(&rows, 0.5)?,
            gate: random(&rows, 0.5)?,
            weight: (random(&[channels], 0.1)? + 1.0)?,
            square: random(&[channels, channels], small)?.to_dtype(dtype)?,
            wide: random(&[4 * channels, channels], small)?.to_dtype(dtype)?,
            narrow: random(&[channels, 4 * channels], small)?.to_dtype(dtype)?,
            bias: random(&[channels], 0.1)?.to_dtype(dtype)?,
            mask: random(&[1, 1, tokens, tokens], 1.0)?.to_dtype(dtype)?,
            table,
            heads,
        })
    }
}
