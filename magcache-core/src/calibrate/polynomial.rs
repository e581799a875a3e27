//! Least squares with polynomials.

/// A fitted polynomial.
#[derive(Clone, Debug, PartialEq)]
pub struct Polynomial {
    /// Highest power first, as in `numpy.polyfit` and the published fits.
    pub coefficients: Vec<f64>,
    /// The smallest and the largest `x` that it was fitted on.
    pub range: [f64; 2],
    /// Root mean square of the residuals of the fit.
    pub residual: f64,
}

impl Polynomial {
    /// The least-squares polynomial of `degree` through `(x, y)`. `None` if a value is not finite, or if
    /// there are fewer distinct `x` than coefficients, which leaves it undetermined.
    ///
    /// Householder reflections on the powers of `x`, each column scaled to length 1, in f64.
    pub fn fit(points: &[(f64, f64)], degree: usize) -> Option<Self> {
        let columns = degree + 1;
        if points.iter().any(|(x, y)| !(x.is_finite() && y.is_finite())) || distinct(points) < columns {
            return None;
        }
        let powers = |x: f64| (0..columns).map(move |power| x.powi((degree - power) as i32));
        let mut matrix: Vec<Vec<f64>> = points.iter().map(|(x, _)| powers(*x).collect()).collect();
        let mut right: Vec<f64> = points.iter().map(|(_, y)| *y).collect();
        let scales: Vec<f64> = (0..columns).map(|c| length(matrix.iter().map(|row| row[c]))).collect();
        for row in &mut matrix {
            row.iter_mut().zip(&scales).for_each(|(value, scale)| *value /= scale);
        }
        for column in 0..columns {
            reflect(&mut matrix, &mut right, column);
        }
        let mut coefficients = vec![0.0; columns];
        for row in (0..columns).rev() {
            let known: f64 = (row + 1..columns).map(|c| matrix[row][c] * coefficients[c]).sum();
            coefficients[row] = (right[row] - known) / matrix[row][row];
        }
        coefficients.iter_mut().zip(&scales).for_each(|(value, scale)| *value /= scale);
        let polynomial = Self { coefficients, range: range(points), residual: 0.0 };
        let missed = length(points.iter().map(|(x, y)| polynomial.at(*x) - y));
        Some(Self { residual: missed / (points.len() as f64).sqrt(), ..polynomial })
            .filter(|fit| fit.coefficients.iter().all(|c| c.is_finite()))
    }

    /// The value at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.coefficients.iter().fold(0.0, |y, c| y * x + c)
    }
}

/// Zeroes a column below the diagonal by a reflection, applied to all columns and to `right`.
fn reflect(matrix: &mut [Vec<f64>], right: &mut [f64], column: usize) {
    let norm = length(matrix[column..].iter().map(|row| row[column]));
    if norm == 0.0 {
        return;
    }
    let mut normal: Vec<f64> = matrix[column..].iter().map(|row| row[column]).collect();
    normal[0] += norm.copysign(normal[0]);
    let squares: f64 = normal.iter().map(|v| v * v).sum();
    for other in column..matrix[column].len() {
        let dot: f64 = normal.iter().zip(&matrix[column..]).map(|(v, row)| v * row[other]).sum();
        for (v, row) in normal.iter().zip(&mut matrix[column..]) {
            row[other] -= 2.0 * dot / squares * v;
        }
    }
    let dot: f64 = normal.iter().zip(&right[column..]).map(|(v, y)| v * y).sum();
    for (v, y) in normal.iter().zip(&mut right[column..]) {
        *y -= 2.0 * dot / squares * v;
    }
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn distinct(points: &[(f64, f64)]) -> usize {
    let mut all: Vec<f64> = points.iter().map(|(x, _)| *x).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all.len()
}

fn range(points: &[(f64, f64)]) -> [f64; 2] {
    points.iter().fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], (x, _)| [low.min(*x), high.max(*x)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.polyfit(x, y, 4)` of numpy 2.4.6 on `x = [0.01, 0.02, 0.035, 0.05, 0.08, 0.13, 0.2]`, `y =
    /// x**0.5 + 0.01 * (-1)**i`.
    #[test]
    fn equals_numpy() {
        let x: [f64; 7] = [0.01, 0.02, 0.035, 0.05, 0.08, 0.13, 0.2];
        let noise = |i: usize| if i.is_multiple_of(2) { 0.01 } else { -0.01 };
        let points: Vec<(f64, f64)> = x.iter().enumerate().map(|(i, x)| (*x, x.sqrt() + noise(i))).collect();
        let fit = Polynomial::fit(&points, 4).expect("seven points");
        let numpy = [
            591.662_858_349_978_5,
            -175.162_225_702_862_86,
            5.829_453_000_213_946,
            3.004_774_237_751_064,
            0.077_687_144_467_517_5,
        ];
        for (ours, numpy) in fit.coefficients.iter().zip(numpy) {
            assert!((ours / numpy - 1.0).abs() < 1e-9, "{ours} {numpy}");
        }
        assert_eq!(fit.range, [0.01, 0.2]);
        assert!((fit.residual - 0.007_260_502_183_287_355).abs() < 1e-12, "{}", fit.residual);
    }

    #[test]
    fn a_polynomial_is_found_exactly() {
        let of = |x: f64| 3.0 * x * x - 2.0 * x + 0.5;
        let points: Vec<(f64, f64)> = (0..9).map(|i| f64::from(i) * 0.1).map(|x| (x, of(x))).collect();
        let fit = Polynomial::fit(&points, 4).expect("nine points");
        assert!(points.iter().all(|(x, y)| (fit.at(*x) - y).abs() < 1e-12) && fit.residual < 1e-12);
    }

    #[test]
    fn what_leaves_it_undetermined_gives_none() {
        let same = [(1.0, 2.0); 10];
        assert_eq!(Polynomial::fit(&same, 4), None);
        let four: Vec<(f64, f64)> = (0..4).map(|i| (f64::from(i), 1.0)).collect();
        assert_eq!(Polynomial::fit(&four, 4), None);
        assert_eq!(Polynomial::fit(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.0)], 1), None);
    }
}
