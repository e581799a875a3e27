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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn is_the_textbook_value() {
        let of: Pooled = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter().collect();
        assert_eq!((of.count, of.mean), (8, 5.0));
        assert!((of.squares - 32.0).abs() < 1e-12 && (of.std() - (32f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Pooled::default().and(3.0).std(), 0.0);
        assert_eq!(Pooled::default().join(Pooled::default()), Pooled::default());
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_whole(
            values in proptest::collection::vec(-1e3..1e3f64, 0..60),
            cuts in proptest::collection::vec(0..60usize, 0..5),
        ) {
            let whole: Pooled = values.iter().copied().collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(values.len())).collect();
            cuts.sort_unstable();
            cuts.push(values.len());
            let (mut joined, mut start) = (Pooled::default(), 0);
            for end in cuts {
                joined = joined.join(values[start..end].iter().copied().collect());
                start = end;
            }
            prop_assert_eq!(joined.count, whole.count);
            prop_assert!((joined.mean - whole.mean).abs() <= 1e-9 * (1.0 + whole.mean.abs()));
            prop_assert!((joined.squares - whole.squares).abs() <= 1e-9 * (1.0 + whole.squares));
        }
    }
}
