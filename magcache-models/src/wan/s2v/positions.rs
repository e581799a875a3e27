//! Where the tokens of a pass are: time, row and column.

use std::ops::Range;

/// The reference picture is shown at this time.
const REFERENCE_TIME: i32 = 30;

/// Latents of the past that are packed together, from the newest on, and how many frames, rows and columns
/// of latents make one token.
pub(super) const BUCKETS: [(usize, [usize; 3]); 3] = [(1, [1, 2, 2]), (2, [2, 4, 4]), (16, [4, 8, 8])];

/// Latents of the past that are packed.
pub(super) const PACKED: usize = 19;

/// Tokens of one clip: those of the video, of the reference picture and, unless it begins the video, of the
/// past, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenGrid {
    /// Frames, rows and columns of the video's tokens.
    pub video: [usize; 3],
    /// Whether there are tokens of the past.
    pub motion: bool,
}

impl TokenGrid {
    /// Which tokens are those of the video.
    pub fn video_tokens(&self) -> Range<usize> {
        0..self.video.iter().product()
    }

    /// Time, row and column of every token.
    pub fn positions(&self) -> impl Iterator<Item = [i32; 3]> + use<> {
        let [frames, rows, columns] = self.video;
        let (fine_rows, fine_columns) = (spread(0, rows, rows), spread(0, columns, columns));
        let video = grid(spread(0, frames, frames), fine_rows.clone(), fine_columns.clone());
        let reference = grid(vec![REFERENCE_TIME], fine_rows, fine_columns);
        let motion = if self.motion { motion_positions([rows, columns]) } else { Vec::new() };
        video.chain(reference).chain(motion)
    }
}

/// Time, row and column of every token of the past, of a video with so many rows and columns of tokens: the
/// newest latent as fine as the video, the older ones coarser and spread over the same rows and columns.
/// Times are negative.
pub fn motion_positions([rows, columns]: [usize; 2]) -> Vec<[i32; 3]> {
    let mut past = 0;
    let mut all = Vec::new();
    for (latents, [frames, coarse, _]) in BUCKETS {
        past += latents;
        let coarser = coarse / 2;
        let times = spread(-(past as i32), (latents / frames).max(1), latents);
        all.extend(grid(times, spread(0, rows / coarser, rows), spread(0, columns / coarser, columns)));
    }
    all
}

/// Every combination, the last one fastest.
fn grid(times: Vec<i32>, rows: Vec<i32>, columns: Vec<i32>) -> impl Iterator<Item = [i32; 3]> {
    times.into_iter().flat_map(move |time| {
        let columns = columns.clone();
        rows.clone()
            .into_iter()
            .flat_map(move |row| columns.clone().into_iter().map(move |column| [time, row, column]))
    })
}

/// `count` positions over `covered` ones from `start` on, both ends included, truncated towards zero; a
/// single one is at `start`. `linspace` of numpy (2.4), on the absolute values.
fn spread(start: i32, count: usize, covered: usize) -> Vec<i32> {
    let sign = if start < 0 { -1 } else { 1 };
    let first = f64::from(start.abs());
    let last = first + f64::from(sign) * (covered.max(1) - 1) as f64;
    let step = if count > 1 { (last - first) / (count - 1) as f64 } else { 0.0 };
    let at = |i: usize| if i > 0 && i + 1 == count { last } else { i as f64 * step + first };
    (0..count).map(|i| sign * at(i) as i32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_positions_are_spread_and_truncated() {
        assert_eq!(spread(0, 11, 44), [0, 4, 8, 12, 17, 21, 25, 30, 34, 38, 43]);
        assert_eq!(spread(-19, 4, 16), [-19, -14, -9, -4]);
        assert_eq!((spread(-1, 1, 1), spread(-3, 1, 2)), (vec![-1], vec![-3]));
    }

    #[test]
    fn the_published_clip_has_63360_tokens() {
        let grid = TokenGrid { video: [20, 44, 64], motion: true };
        let times = |all: Vec<[i32; 3]>| {
            let mut times: Vec<_> = all.into_iter().map(|[time, ..]| time).collect();
            times.dedup();
            times
        };
        let all: Vec<_> = grid.positions().collect();
        assert_eq!((grid.video_tokens(), all.len()), (0..56_320, 63_360));
        assert_eq!(times(all[56_320..].to_vec()), [30, -1, -3, -19, -14, -9, -4]);
        assert_eq!(TokenGrid { motion: false, ..grid }.positions().count(), 59_136);
    }
}
