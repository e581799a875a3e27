//! Mean and deviation of a sample that arrives in pieces.

/// Count, mean and sum of squared deviations. Two can be joined into that of the pooled sample, up to
/// rounding (Chan, Golub and `LeVeque`, "Updating Formulae and a Pairwise Algorithm for Computing Sample
/// Variances", 1979).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pooled {
    /// Number of values.
    pub count: u64,
    /// Their mean; 0 if there are none.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub squares: f64,
}

impl Pooled {
    /// Adds one value.
    #[must_use]
    pub fn and(self, value: f64) -> Self {
        self.join(Self { count: 1, mean: value, squares: 0.0 })
    }

    /// Pools both samples.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let count = self.count + other.count;
        if self.count == 0 {
            return other;
        }
        let (own, others, all) = (self.count as f64, other.count as f64, count as f64);
        let apart = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * others / all,
            squares: self.squares + other.squares + apart * apart * own * others / all,
        }
    }

    /// Sample standard deviation; 0 for fewer than two values.
    pub fn std(&self) -> f64 {
        (self.squares / self.count.saturating_sub(1).max(1) as f64).sqrt()
    }
}

impl FromIterator<f64> for Pooled {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        values.into_iter().fold(Self::default(), Self::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_textbook_value() {
        let of: Pooled = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter().collect();
        assert_eq!((of.count, of.mean), (8, 5.0));
        assert!((of.squares - 32.0).abs() < 1e-12 && (of.std() - (32f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Pooled::default().and(3.0).std(), 0.0);
        assert_eq!(Pooled::default().join(Pooled::default()), Pooled::default());
    }

    #[test]
    fn pieces_join_to_the_whole() {
        for n in 0..60usize {
            let values: Vec<f64> = (0..n).map(|i| 1e3 * (i as f64 * 12.9898 + n as f64).sin()).collect();
            let whole: Pooled = values.iter().copied().collect();
            for piece in 1..=n + 1 {
                let pieces = values.chunks(piece).map(|piece| piece.iter().copied().collect());
                let joined: Pooled = pieces.fold(Pooled::default(), Pooled::join);
                assert_eq!(joined.count, whole.count);
                assert!((joined.mean - whole.mean).abs() <= 1e-9 * (1.0 + whole.mean.abs()));
                assert!((joined.squares - whole.squares).abs() <= 1e-9 * (1.0 + whole.squares));
            }
        }
    }
}
