//! From coded values to f32.
//!
//! Exactly as written in the formats' definitions: scale times sub-scale first, then times the value, in f32;
//! equal to ggml, gguf-py and candle bit for bit. Decoding is a small part of a product with many rows, but
//! only with vector instructions, so the loops are simple and compiled for every width.

mod blocks;
mod k_blocks;
mod tiny_floats;

use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};

use super::number::NumberFormat;

/// Values of the largest block.
pub(crate) const LARGEST_BLOCK: usize = 256;

/// Decodes whole blocks into `out`, which has as many values as they do.
pub(crate) fn decode(format: NumberFormat, bytes: &[u8], out: &mut [f32]) {
    Arch::new().dispatch(Decode { format, bytes, out });
}

/// The values of all 256 codes of `float8_e4m3fn` or `float8_e5m2`; `None` for other names.
pub fn decode_f8(name: &str) -> Option<Vec<f32>> {
    let format = match name {
        "float8_e4m3fn" => NumberFormat::F8E4M3,
        "float8_e5m2" => NumberFormat::F8E5M2,
        _ => return None,
    };
    let mut values = vec![0.0; 256];
    decode(format, &(0..=255).collect::<Vec<u8>>(), &mut values);
    Some(values)
}

struct Decode<'a> {
    format: NumberFormat,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl WithSimd for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        use NumberFormat as F;
        let Self { format, bytes, out } = self;
        match format {
            F::F32 => each(bytes, out, f32::from_le_bytes),
            F::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32_const()),
            F::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32_const()),
            F::F8E4M3 => each(bytes, out, |[code]| tiny_floats::e4m3(code)),
            F::F8E5M2 => each(bytes, out, |[code]| tiny_floats::e5m2(code)),
            F::Q4_0 => by_block(bytes, out, blocks::q4_0),
            F::Q4_1 => by_block(bytes, out, blocks::q4_1),
            F::Q5_0 => by_block(bytes, out, blocks::q5_0),
            F::Q5_1 => by_block(bytes, out, blocks::q5_1),
            F::Q8_0 => by_block(bytes, out, blocks::q8_0),
            F::Q2K => by_block(bytes, out, k_blocks::q2_k),
            F::Q3K => by_block(bytes, out, k_blocks::q3_k),
            F::Q4K => by_block(bytes, out, k_blocks::q4_k),
            F::Q5K => by_block(bytes, out, k_blocks::q5_k),
            F::Q6K => by_block(bytes, out, k_blocks::q6_k),
            // Refused before anything is decoded.
            F::Other(_) => out.fill(f32::NAN),
        }
    }
}

#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *out = value(*bytes);
    }
}

#[inline(always)]
fn by_block<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    for (bytes, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<VALUES>().0) {
        block(bytes, out);
    }
}

/// The f16 in two bytes.
#[inline(always)]
fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32_const()
}
