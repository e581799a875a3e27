//! The inputs of the tables, from integers.

/// The finaliser of splitmix64.
fn mix(k: u64) -> u64 {
    let k = k.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let k = (k ^ (k >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let k = (k ^ (k >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    k ^ (k >> 31)
}

/// `n` multiples of 2^-23 in [-1, 1).
pub(super) fn noise(seed: u64, n: usize) -> Vec<f64> {
    let at = |i: u64| (mix((seed << 32).wrapping_add(i)) >> 40) as f64 * 2f64.powi(-23) - 1.0;
    (0..n as u64).map(at).collect()
}

/// `steps` vectors of `n` values on a straight line with jitter, rounded once.
pub(super) fn path(seed: u64, steps: usize, n: usize, drift: f64, jitter: f64) -> Vec<Vec<f32>> {
    let (a, b) = (noise(seed, n), noise(seed + 1, n));
    let at = |t: usize| {
        let c = noise(seed + 2 + t as u64, n);
        let along = drift * (t as f64 / steps as f64);
        (0..n).map(|i| (a[i] + along * b[i] + jitter * c[i]) as f32).collect()
    };
    (0..steps).map(at).collect()
}

/// Noise levels of a shifted linear schedule, and 0.
pub(super) fn flow_sigmas(steps: usize, shift: f64) -> Vec<f64> {
    let at = |i: usize| {
        let u = 1.0 - i as f64 / steps as f64;
        shift * u / (1.0 + (shift - 1.0) * u)
    };
    (0..steps).map(at).chain([0.0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stated_values_come_out() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(
            noise(7, 3),
            [0.475_411_176_681_518_55, -0.794_962_644_577_026_4, 0.305_139_660_835_266_1]
        );
    }
}
