//! Blocks of 32 values with one scale.

use super::half;

/// Values of a block.
const VALUES: usize = 32;

/// Low halves of 16 bytes are the first 16 values, high halves the others.
#[inline(always)]
fn nibbles(bytes: &[u8], out: &mut [f32; VALUES], value: impl Fn(i32, usize) -> f32) {
    let (low, high) = out.split_at_mut(VALUES / 2);
    for (i, ((byte, low), high)) in bytes.iter().zip(low).zip(high).enumerate() {
        *low = value(i32::from(byte & 15), i);
        *high = value(i32::from(byte >> 4), i + VALUES / 2);
    }
}

#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; VALUES]) {
    let scale = half(block[0], block[1]);
    nibbles(&block[2..], out, |q, _| scale * (q - 8) as f32);
}

#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; VALUES]) {
    let (scale, least) = (half(block[0], block[1]), half(block[2], block[3]));
    nibbles(&block[4..], out, |q, _| scale * q as f32 + least);
}

/// The fifth bit of value `i`, in its place.
#[inline(always)]
fn fifth(bits: u32, i: usize) -> i32 {
    (((bits >> i) & 1) << 4) as i32
}

#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; VALUES]) {
    let scale = half(block[0], block[1]);
    let bits = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(&block[6..], out, |q, i| scale * ((q | fifth(bits, i)) - 16) as f32);
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; VALUES]) {
    let (scale, least) = (half(block[0], block[1]), half(block[2], block[3]));
    let bits = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(&block[8..], out, |q, i| scale * (q | fifth(bits, i)) as f32 + least);
}

#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; VALUES]) {
    let scale = half(block[0], block[1]);
    for (byte, out) in block[2..].iter().zip(out) {
        *out = scale * f32::from(byte.cast_signed());
    }
}
