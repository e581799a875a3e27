//! Sums that do not depend on who adds which part, or in what order.

/// A fixed-point number has so many bits after the point.
const BITS: i32 = 64;

/// Sums over one row of a batch, in units of 2⁻⁶⁴: integers, so parts can be added in any order, by any
/// number of threads and ranks, to the same value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Of `f(a − b)`.
    difference: u128,
    /// Of `f(b)`.
    of_b: u128,
    /// Whether a part was not finite, or too large for 64 bits before the point.
    odd: bool,
}

impl Sums {
    /// From the sums of one block; none is negative.
    pub(super) fn of_block(difference: f32, of_b: f32) -> Self {
        match (fixed(difference), fixed(of_b)) {
            (Some(difference), Some(of_b)) => Self { difference, of_b, odd: false },
            _ => Self::ODD,
        }
    }

    const ODD: Self = Self { difference: 0, of_b: 0, odd: true };

    /// Both added up.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let sum = (self.difference.checked_add(other.difference), self.of_b.checked_add(other.of_b));
        match sum {
            (Some(difference), Some(of_b)) => Self { difference, of_b, odd: self.odd || other.odd },
            _ => Self::ODD,
        }
    }

    /// The sum of the differences by that of `b`, correctly rounded: so it is the same if both count several
    /// times. NaN if a part was not finite, or if both are zero.
    pub fn ratio(&self) -> f64 {
        match (self.difference, self.of_b) {
            _ if self.odd => f64::NAN,
            (0, 0) => f64::NAN,
            (_, 0) => f64::INFINITY,
            (difference, of_b) => quotient(difference, of_b),
        }
    }

    /// Whether nothing differs.
    pub fn is_zero(&self) -> bool {
        self.difference == 0 && !self.odd
    }

    /// The sum of the differences.
    pub(crate) fn difference(&self) -> f64 {
        self.float(self.difference)
    }

    /// The sum over `b`.
    pub(super) fn of_b(&self) -> f64 {
        self.float(self.of_b)
    }

    fn float(&self, sum: u128) -> f64 {
        if self.odd { f64::NAN } else { sum as f64 * 0.5f64.powi(BITS) }
    }

    /// For another rank.
    pub(crate) fn to_bytes(self) -> [u8; 33] {
        let mut bytes = [0; 33];
        bytes[..16].copy_from_slice(&self.difference.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.of_b.to_le_bytes());
        bytes[32] = u8::from(self.odd);
        bytes
    }

    /// The inverse of [`Sums::to_bytes`].
    pub(crate) fn of_bytes(bytes: [u8; 33]) -> Self {
        let number = |at: usize| u128::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { difference: number(0), of_b: number(16), odd: bytes[32] != 0 }
    }
}

/// Bits of an `f32`'s mantissa after its first, and the exponent of its last one.
const MANTISSA: u32 = 23;
const LAST: i32 = -150;

/// A number that is not negative in units of 2⁻⁶⁴, rounded down; `None` from 2⁶³ on and for what is no
/// number.
#[inline]
fn fixed(x: f32) -> Option<u128> {
    let bits = x.to_bits();
    let exponent = (bits >> MANTISSA) as i32;
    // A negative number has its sign above the exponent.
    if exponent >= 127 + 63 {
        return (bits == (-0.0f32).to_bits()).then_some(0);
    }
    if exponent == 0 {
        // Below 2⁻¹²⁶.
        return Some(0);
    }
    let mantissa = u128::from((bits & ((1 << MANTISSA) - 1)) | (1 << MANTISSA));
    let shift = exponent + LAST + BITS;
    Some(if shift >= 0 { mantissa << shift } else { mantissa.checked_shr(shift.unsigned_abs()).unwrap_or(0) })
}

/// `a / b`, correctly rounded.
fn quotient(a: u128, b: u128) -> f64 {
    let (mut whole, mut rest) = (a / b, a % b);
    let mut exponent = 0;
    // At least 64 bits of the quotient, so that those behind the mantissa only tell where it lies between two
    // numbers; nothing below 2⁻¹²⁸ comes out of two sums in units of 2⁻⁶⁴.
    while whole >> 64 == 0 && rest != 0 && exponent > -256 {
        let over = rest >> 127 != 0;
        rest <<= 1;
        whole <<= 1;
        if over || rest >= b {
            rest = rest.wrapping_sub(b);
            whole |= 1;
        }
        exponent -= 1;
    }
    let sticky = u128::from(rest != 0);
    (whole | sticky) as f64 * 2f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the format says, by other means.
    fn slowly(x: f32) -> u128 {
        (f64::from(x) * 2f64.powi(BITS)) as u128
    }

    #[test]
    fn numbers_become_integers_exactly_where_they_can() {
        let some =
            [0.0, -0.0, 1.0, 0.1, 1e-3, 3.5e-20, 5e-20, 6e-20, 1e-30, 1e-45, 512.0 * 7.3, 1e12, 9.2e18];
        for x in some {
            assert_eq!(fixed(x), Some(slowly(x)), "{x:?}");
        }
        for bits in (0..0x5f00_0000u32).step_by(65_537) {
            let x = f32::from_bits(bits);
            assert_eq!(fixed(x), Some(slowly(x)), "{x:?}");
        }
        for x in [1e19, f32::MAX, f32::INFINITY, f32::NAN, -f32::NAN, -1.0] {
            assert_eq!(fixed(x), None, "{x:?}");
        }
    }

    #[test]
    fn a_quotient_is_that_of_the_numbers_however_often_both_count() {
        let numbers =
            [1u128, 2, 3, 7, 10, 1 << 40, (1 << 40) + 1, 0x1234_5678_9abc_def0_1234, u128::MAX >> 5];
        for (a, b) in numbers.into_iter().flat_map(|a| numbers.map(|b| (a, b))) {
            let one = quotient(a, b);
            for times in 2..=16 {
                assert_eq!(quotient(a * times, b * times), one, "{times} times {a} / {b}");
            }
            if a < 1 << 53 && b < 1 << 53 {
                assert_eq!(one, a as f64 / b as f64, "{a} / {b}");
            }
            assert!((one / (a as f64 / b as f64) - 1.0).abs() < 1e-15);
        }
        assert_eq!(quotient(u128::MAX, u128::MAX), 1.0);
    }

    #[test]
    fn what_is_no_number_stays_none_in_every_sum_and_on_the_way_to_another_rank() {
        let (one, odd) = (Sums::of_block(1.0, 2.0), Sums::of_block(f32::NAN, 1.0));
        assert_eq!(one.and(one).ratio(), 0.5);
        assert!(one.and(odd).ratio().is_nan() && odd.and(one).difference().is_nan() && !odd.is_zero());
        let large = Sums::of_block(9e18, 1.0);
        assert!(large.and(large).and(large).ratio().is_nan(), "too large a sum is none");
        assert!(Sums::of_block(1.0, 0.0).ratio().is_infinite() && Sums::of_block(0.0, 0.0).ratio().is_nan());
        for sums in [one, odd, large] {
            assert_eq!(Sums::of_bytes(sums.to_bytes()), sums);
        }
    }
}
