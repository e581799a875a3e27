//! RGB to Y'`CbCr` 4:2:0, limited range, and back.

use image::RgbImage;
use openh264::encoder::MatrixCoefficients;
use openh264::formats::YUVSource;

/// The matrix that separates brightness and colour. The stream names it; the choice follows players that
/// ignore the name and assume BT.601 below 720 rows and BT.709 from there, so that they show the right
/// colours too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Matrix {
    Bt601,
    Bt709,
}

impl Matrix {
    pub(in super::super) fn of_height(height: u32) -> Self {
        if height < 720 { Self::Bt601 } else { Self::Bt709 }
    }

    /// The value in H.264 table E-5 and in the `colr` box.
    pub(super) fn code(self) -> MatrixCoefficients {
        match self {
            Self::Bt601 => MatrixCoefficients::Smpte170M,
            Self::Bt709 => MatrixCoefficients::Bt709,
        }
    }

    /// Weights of red and blue in the brightness (ITU-R BT.601-7 and BT.709-6, section 3); green has the
    /// rest.
    fn weights(self) -> (f32, f32) {
        match self {
            Self::Bt601 => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
        }
    }

    /// A picture as RGB, three bytes for each pixel, row by row. The four pixels of a block share their
    /// colour; values outside the range of RGB are clamped.
    pub(in super::super) fn rgb(self, picture: &impl YUVSource) -> Vec<u8> {
        let (red, blue) = self.weights();
        let green = 1.0 - red - blue;
        let (width, height) = picture.dimensions();
        let (y_stride, u_stride, v_stride) = picture.strides();
        let mut rgb = Vec::with_capacity(3 * width * height);
        for row in 0..height {
            let luma = picture.y().iter().skip(row * y_stride).take(width);
            let [u, v] = [(picture.u(), u_stride), (picture.v(), v_stride)]
                .map(|(plane, stride)| plane.iter().skip(row / 2 * stride).flat_map(|level| [*level; 2]));
            for ((y, u), v) in luma.zip(u).zip(v) {
                let y = (f32::from(*y) - 16.0) / 219.0;
                let [to_blue, to_red] = [(u, blue), (v, red)]
                    .map(|(level, weight)| (f32::from(level) - 128.0) / 224.0 * 2.0 * (1.0 - weight));
                let (r, b) = (y + to_red, y + to_blue);
                let g = (y - red * r - blue * b) / green;
                rgb.extend([r, g, b].map(|level| (level.clamp(0.0, 1.0) * 255.0).round() as u8));
            }
        }
        rgb
    }
}

/// One picture of even width and height: planes `[h, w]`, `[h/2, w/2]`, `[h/2, w/2]`.
#[derive(Debug)]
pub(super) struct I420 {
    width: usize,
    height: usize,
    matrix: Matrix,
    y: Vec<u8>,
    u: Vec<u8>,
    v: Vec<u8>,
}

impl I420 {
    pub(super) fn new(width: u32, height: u32, matrix: Matrix) -> Self {
        let (width, height) = (width as usize, height as usize);
        let plane = |size| vec![0; size];
        let (y, quarter) = (width * height, width / 2 * (height / 2));
        Self { width, height, matrix, y: plane(y), u: plane(quarter), v: plane(quarter) }
    }

    /// Converts `frame`, which has this picture's size. Colour is the mean of 2x2 pixels; each sum is rounded
    /// once.
    pub(super) fn fill(&mut self, frame: &RgbImage) {
        let (red, blue) = self.matrix.weights();
        let green = 1.0 - red - blue;
        let row = 3 * self.width;
        let blocks = frame
            .chunks_exact(2 * row)
            .zip(self.y.chunks_exact_mut(2 * self.width))
            .zip(self.u.chunks_exact_mut(self.width / 2).zip(self.v.chunks_exact_mut(self.width / 2)));
        for ((rgb, y), (u, v)) in blocks {
            let (upper, lower) = rgb.split_at(row);
            let (y_upper, y_lower) = y.split_at_mut(self.width);
            let pixels = upper.chunks_exact(6).zip(lower.chunks_exact(6));
            let luma = y_upper.chunks_exact_mut(2).zip(y_lower.chunks_exact_mut(2));
            for ((pixels, luma), (u, v)) in pixels.zip(luma).zip(u.iter_mut().zip(v)) {
                let (mut sum_y, mut sum_red, mut sum_blue) = (0.0, 0.0, 0.0);
                for (rgb, luma) in [(pixels.0, luma.0), (pixels.1, luma.1)] {
                    for (rgb, luma) in rgb.chunks_exact(3).zip(luma) {
                        let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(|level| f32::from(level) / 255.0);
                        let brightness = red * r + green * g + blue * b;
                        *luma = (16.0 + 219.0 * brightness).round() as u8;
                        sum_y += brightness;
                        sum_red += r;
                        sum_blue += b;
                    }
                }
                let chroma =
                    |sum: f32, weight: f32| 128.0 + 224.0 * (sum - sum_y) / 4.0 / (2.0 * (1.0 - weight));
                *u = chroma(sum_blue, blue).round() as u8;
                *v = chroma(sum_red, red).round() as u8;
            }
        }
    }
}

impl YUVSource for I420 {
    fn dimensions(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn strides(&self) -> (usize, usize, usize) {
        (self.width, self.width / 2, self.width / 2)
    }

    fn y(&self) -> &[u8] {
        &self.y
    }

    fn u(&self) -> &[u8] {
        &self.u
    }

    fn v(&self) -> &[u8] {
        &self.v
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// The 100 % colour bars of ITU-R BT.801 (601) and BT.709 in 8 bits, as published.
    #[test]
    fn colour_bars_have_their_published_values() {
        let bars: [([u8; 3], [u8; 3], [u8; 3]); 8] = [
            ([255, 255, 255], [235, 128, 128], [235, 128, 128]),
            ([255, 255, 0], [210, 16, 146], [219, 16, 138]),
            ([0, 255, 255], [170, 166, 16], [188, 154, 16]),
            ([0, 255, 0], [145, 54, 34], [173, 42, 26]),
            ([255, 0, 255], [106, 202, 222], [78, 214, 230]),
            ([255, 0, 0], [81, 90, 240], [63, 102, 240]),
            ([0, 0, 255], [41, 240, 110], [32, 240, 118]),
            ([0, 0, 0], [16, 128, 128], [16, 128, 128]),
        ];
        for (rgb, bt601, bt709) in bars {
            for (matrix, expected) in [(Matrix::Bt601, bt601), (Matrix::Bt709, bt709)] {
                let mut picture = I420::new(2, 2, matrix);
                picture.fill(&RgbImage::from_pixel(2, 2, Rgb(rgb)));
                assert_eq!([picture.y[0], picture.u[0], picture.v[0]], expected, "{matrix:?} {rgb:?}");
            }
        }
    }

    #[test]
    fn pixels_keep_their_places_and_blocks_share_their_colour() {
        let mut picture = I420::new(4, 4, Matrix::Bt601);
        // Grey levels by position, and one block of red and cyan, whose mean is grey.
        picture.fill(&RgbImage::from_fn(4, 4, |x, y| match (x, y) {
            (2, 2) | (3, 3) => Rgb([255, 0, 0]),
            (3, 2) | (2, 3) => Rgb([0, 255, 255]),
            _ => Rgb([(16 * (4 * y + x)) as u8; 3]),
        }));
        let grey = |i: u8| (16.0 + 219.0 * f32::from(16 * i) / 255.0).round() as u8;
        let expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 255, 255, 12, 13, 255, 255];
        for (i, (&y, place)) in picture.y.iter().zip(expected).enumerate() {
            let expected = match i {
                10 | 15 => 81,
                11 | 14 => 170,
                _ => grey(place),
            };
            assert_eq!(y, expected, "place {i}");
        }
        assert_eq!((picture.u, picture.v), (vec![128; 4], vec![128; 4]));
    }
}
