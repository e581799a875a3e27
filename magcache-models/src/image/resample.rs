//! Weighted sums of pixels along both axes, in Pillow's arithmetic.

use std::f64::consts::PI;

use super::Filter;

/// A value of a pixel, and how sums of it are rounded.
pub(super) trait Sample: Copy {
    /// A weight, or a sum.
    type Sum: Copy;

    /// A weight as sums take it.
    fn weight(weight: f64) -> Self::Sum;

    /// `sum + weight * self`; [`Self::START`] is the first sum.
    fn add(self, sum: Self::Sum, weight: Self::Sum) -> Self::Sum;

    /// A sum as a value.
    fn of(sum: Self::Sum) -> Self;

    /// The sum of nothing.
    const START: Self::Sum;
}

/// Bits after the binary point: Pillow rounds weights to them, and sums to whole numbers between both passes.
const BITS: u32 = 22;

impl Sample for u8 {
    type Sum = i64;

    fn weight(weight: f64) -> i64 {
        (weight * f64::from(1 << BITS)).round() as i64
    }

    fn add(self, sum: i64, weight: i64) -> i64 {
        sum + weight * i64::from(self)
    }

    fn of(sum: i64) -> Self {
        (sum >> BITS).clamp(0, 255) as Self
    }

    const START: i64 = 1 << (BITS - 1);
}

impl Sample for f32 {
    type Sum = Self;

    fn weight(weight: f64) -> Self {
        weight as Self
    }

    fn add(self, sum: Self, weight: Self) -> Self {
        sum + weight * self
    }

    fn of(sum: Self) -> Self {
        sum
    }

    const START: Self = 0.0;
}

/// An axis of a picture: its length, the part that is scaled, and the length that this part gets.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub(super) length: usize,
    /// Pillow takes them in single precision.
    pub(super) part: (f32, f32),
    pub(super) new: usize,
}

impl Axis {
    /// The whole of it at another length.
    pub(super) fn whole(length: usize, new: usize) -> Self {
        Self { length, part: (0.0, length as f32), new }
    }

    /// For every new pixel, the first old one that counts, and the weights from there on.
    fn weights<S: Sample>(self, filter: Filter) -> Vec<(usize, Vec<S::Sum>)> {
        let Self { length, part: (start, end), new } = self;
        let scale = f64::from(end - start) / new as f64;
        let stretch = scale.max(1.0);
        let reach = filter.reach() * stretch;
        let of = |pixel: usize| {
            let centre = f64::from(start) + (pixel as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5) as usize;
            let end = length.min((centre + reach + 0.5) as usize);
            let weight = |old: usize| filter.at((old as f64 - centre + 0.5) * (1.0 / stretch));
            let sum: f64 = (first..end).map(weight).sum();
            (first, (first..end).map(|old| S::weight(weight(old) / sum)).collect())
        };
        (0..new).map(of).collect()
    }
}

impl Filter {
    /// Where it ends, for a picture that keeps its size.
    fn reach(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        let (a, distance) = (-0.5, x.abs());
        match self {
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => (((distance - 5.0) * distance + 8.0) * distance - 4.0) * a,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

/// RGB pixels, row by row, at another size: the width first.
pub(super) fn resample<S: Sample>(
    pixels: &[[S; 3]],
    columns: Axis,
    rows: Axis,
    filter: Filter,
) -> Vec<[S; 3]> {
    let add = |sums: &mut [S::Sum; 3], pixel: &[S; 3], weight: S::Sum| {
        sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum = x.add(*sum, weight));
    };
    let weights = columns.weights::<S>(filter);
    let mut narrow = Vec::with_capacity(rows.length * columns.new);
    for row in pixels.chunks_exact(columns.length.max(1)) {
        narrow.extend(weights.iter().map(|(first, weights)| {
            let mut sums = [S::START; 3];
            row.iter().skip(*first).zip(weights).for_each(|(pixel, weight)| add(&mut sums, pixel, *weight));
            sums.map(S::of)
        }));
    }
    let mut out = Vec::with_capacity(rows.new * columns.new);
    for (first, weights) in rows.weights::<S>(filter) {
        let mut sums = vec![[S::START; 3]; columns.new];
        for (row, weight) in narrow.chunks_exact(columns.new.max(1)).skip(first).zip(weights) {
            sums.iter_mut().zip(row).for_each(|(sums, pixel)| add(sums, pixel, weight));
        }
        out.extend(sums.into_iter().map(|sums| sums.map(S::of)));
    }
    out
}
