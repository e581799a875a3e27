//! The size of the video.

/// Sides are multiples of this.
const MULTIPLE: usize = 64;

/// Scales that are tried.
const SCALES: u32 = 100;

/// Height and width of the video for a picture: multiples of 64, at most `area` pixels, near the picture's
/// shape. `None` if not even one such multiple fits on each side.
///
/// The first of 100 scales, from the largest down, whose truncated sides stay within the area when each is
/// rounded up; a small picture is hardly enlarged. `get_size_less_than_area` of the official code.
pub fn video_size(height: usize, width: usize, area: usize) -> Option<(usize, usize)> {
    let (rows, columns, most) = (height as f64, width as f64, area as f64);
    let (low, high) = if rows * columns <= most {
        (0.1, 1.0)
    } else {
        // Rounding up adds at most 63 to a side.
        let more = (MULTIPLE - 1) as f64;
        let (a, b, c) = (rows * columns, more * (rows + columns), more * more - most);
        ((-b + (b * b - 2.0 * a * c).sqrt()) / (2.0 * a), (most / a).sqrt())
    };
    let up = |side: f64| (side as usize).next_multiple_of(MULTIPLE);
    let fitting = (0..SCALES).find_map(|i| {
        let scale = high - (high - low) * f64::from(i) / f64::from(SCALES);
        let (height, width) = (up(rows * scale), up(columns * scale));
        (height.saturating_mul(width) <= area).then_some((height, width))
    });
    let (height, width) = fitting.unwrap_or_else(|| {
        let down = |side: f64| side as usize / MULTIPLE * MULTIPLE;
        let ratio = columns / rows;
        let (tall, wide) = (down((most / ratio).sqrt()), down((most * ratio).sqrt()));
        if wide >= width || tall >= height { (down(rows), down(columns)) } else { (tall, wide) }
    });
    (height > 0 && width > 0).then_some((height, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_a_bound_not_a_size() {
        assert_eq!(video_size(720, 1280, 720 * 1280), Some((704, 1280)));
        assert_eq!(video_size(480, 832, 480 * 832), Some((448, 832)));
        assert_eq!(video_size(1024, 1024, 1024 * 704), Some((832, 832)));
        for (height, width) in [(1, 1), (1, 16_384), (16_384, 1), (5000, 7000), (63, 65)] {
            for area in [64 * 64, 480 * 832, 720 * 1280, 1 << 40] {
                let Some((rows, columns)) = video_size(height, width, area) else { continue };
                assert!(
                    rows % 64 == 0 && columns % 64 == 0 && rows * columns <= area,
                    "{height} {width} {area}"
                );
            }
        }
        assert_eq!([video_size(100, 100, 64 * 64 - 1), video_size(0, 10, 1 << 20)], [None; 2]);
    }
}
