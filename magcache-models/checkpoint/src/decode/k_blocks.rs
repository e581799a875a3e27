//! Blocks of 256 values in groups of 16 or 32, whose scales have a common scale.

use super::half;

/// Values of a block.
const VALUES: usize = 256;

/// Values of half a block, whose two low bits are four shifts of 32 bytes.
const HALF: usize = 128;

/// Values that one shift of those bytes, or one half of their bits, gives.
const ROW: usize = 32;

/// Values of a group in the types with 16 groups.
const GROUP: usize = 16;

/// `value(group, q)` of the values of `ROW` bytes, in two groups of which the first is `group`.
#[inline(always)]
fn two_groups(out: &mut [f32], group: usize, of: impl Fn(usize) -> i32, value: impl Fn(usize, i32) -> f32) {
    for half in 0..2 {
        for (i, out) in out[half * GROUP..][..GROUP].iter_mut().enumerate() {
            *out = value(group + half, of(half * GROUP + i));
        }
    }
}

#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; VALUES]) {
    let (scale, least) = (half(block[80], block[81]), half(block[82], block[83]));
    let scales: [f32; 16] = std::array::from_fn(|i| scale * f32::from(block[i] & 15));
    let minima: [f32; 16] = std::array::from_fn(|i| least * f32::from(block[i] >> 4));
    for (row, out) in out.chunks_exact_mut(ROW).enumerate() {
        let (bytes, shift) = (&block[16 + row / 4 * ROW..][..ROW], 2 * (row % 4));
        two_groups(
            out,
            2 * row,
            |i| i32::from((bytes[i] >> shift) & 3),
            |group, q| scales[group] * q as f32 - minima[group],
        );
    }
}

#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; VALUES]) {
    let (high, low, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half(block[108], block[109]);
    let scales: [f32; 16] = std::array::from_fn(|i| {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
        scale * f32::from((low | high << 4).cast_signed() - 32)
    });
    for (row, out) in out.chunks_exact_mut(ROW).enumerate() {
        let (bytes, shift) = (&low[row / 4 * ROW..][..ROW], 2 * (row % 4));
        let q = |i: usize| {
            let missing = 1 - i32::from((high[i] >> row) & 1);
            i32::from((bytes[i] >> shift) & 3) - 4 * missing
        };
        two_groups(out, 2 * row, q, |group, q| scales[group] * q as f32);
    }
}

/// Eight scales of six bits and eight minima in 12 bytes, times their common factors.
#[inline(always)]
fn scales_and_minima(packed: &[u8], scale: f32, least: f32) -> [(f32, f32); 8] {
    std::array::from_fn(|i| {
        let (s, m) = if i < 4 {
            (packed[i] & 63, packed[i + 4] & 63)
        } else {
            let both = packed[i + 4];
            ((both & 15) | (packed[i - 4] >> 6 << 4), (both >> 4) | (packed[i] >> 6 << 4))
        };
        (scale * f32::from(s), least * f32::from(m))
    })
}

/// Low halves of 32 bytes are a group, high halves the next; `fifth` adds bits to value `i` of a group.
#[inline(always)]
fn groups_of_32(
    bytes: &[u8],
    groups: [(f32, f32); 8],
    fifth: impl Fn(usize, usize) -> u8,
    out: &mut [f32; VALUES],
) {
    for (group, out) in out.chunks_exact_mut(ROW).enumerate() {
        let (scale, least) = groups[group];
        let (bytes, shift) = (&bytes[group / 2 * ROW..][..ROW], 4 * (group % 2));
        for (i, (byte, out)) in bytes.iter().zip(out).enumerate() {
            *out = scale * f32::from((byte >> shift) & 15 | fifth(group, i)) - least;
        }
    }
}

#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; VALUES]) {
    let groups = scales_and_minima(&block[4..16], half(block[0], block[1]), half(block[2], block[3]));
    groups_of_32(&block[16..], groups, |_, _| 0, out);
}

#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; VALUES]) {
    let groups = scales_and_minima(&block[4..16], half(block[0], block[1]), half(block[2], block[3]));
    let bits = &block[16..48];
    groups_of_32(&block[48..], groups, |group, i| ((bits[i] >> group) & 1) << 4, out);
}

#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; VALUES]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half(block[208], block[209]);
    let scales: [f32; 16] = std::array::from_fn(|i| scale * f32::from(scales[i].cast_signed()));
    for (row, out) in out.chunks_exact_mut(ROW).enumerate() {
        let (part, k) = (row * ROW / HALF, row % 4);
        let low = &low[part * 64 + k % 2 * ROW..][..ROW];
        let high = &high[part * ROW..][..ROW];
        let (low_shift, high_shift) = (k / 2 * 4, 2 * k);
        let q = |i: usize| i32::from((low[i] >> low_shift) & 15 | ((high[i] >> high_shift) & 3) << 4) - 32;
        two_groups(out, 2 * row, q, |group, q| scales[group] * q as f32);
    }
}
