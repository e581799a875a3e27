//! Floats of eight bits.

use half::f16;

/// Bits of a fraction in f32.
const FRACTION: u32 = 23;

/// 1 sign, 4 exponent bits with bias 7, 3 fraction bits; no infinity, all ones is NaN.
#[inline(always)]
pub(super) fn e4m3(code: u8) -> f32 {
    let sign = u32::from(code >> 7) << 31;
    let rest = u32::from(code & 0x7f);
    // Exponent and fraction in the place of those of an f32, whose bias is 120 more: the product with 2^120
    // makes up for it, for values below the normal ones too.
    let value = f32::from_bits(rest << (FRACTION - 3)) * f32::from_bits((127 + 120) << FRACTION);
    let value = if rest == 0x7f { f32::NAN } else { value };
    f32::from_bits(value.to_bits() | sign)
}

/// The upper byte of an f16.
#[inline(always)]
pub(super) fn e5m2(code: u8) -> f32 {
    f16::from_le_bytes([0, code]).to_f32_const()
}
