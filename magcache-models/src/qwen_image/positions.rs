//! The positions of tokens, whole numbers in f32: (number of the picture, row, column), rows and columns
//! counted from the centre.
//!
//! Source: `QwenEmbedRope` of diffusers 0.42.1.

/// Positions of the tokens of pictures with these rows and columns, one picture after the other, row by row.
/// Of an odd number of rows or columns one more lies before the centre.
pub fn image_ids(grids: &[[usize; 2]]) -> Vec<[f32; 3]> {
    let from = |length: usize| -((length - length / 2) as f32);
    let of = |(number, [rows, columns]): (usize, &[usize; 2])| {
        let (top, left, columns) = (from(*rows), from(*columns), *columns);
        let places = (0..*rows).flat_map(move |row| (0..columns).map(move |column| (row, column)));
        places.map(move |(row, column)| [number as f32, top + row as f32, left + column as f32])
    };
    grids.iter().enumerate().flat_map(of).collect()
}

/// Positions of the text beside pictures with these rows and columns: the same on all axes, from half of the
/// longest side of any of them.
pub fn text_ids(grids: &[[usize; 2]], tokens: usize) -> Vec<[f32; 3]> {
    let first = grids.iter().flatten().map(|side| side / 2).max().unwrap_or(0);
    (first..first + tokens).map(|place| [place as f32; 3]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_centred_and_text_begins_behind_the_longest_side() {
        let ids = image_ids(&[[3, 2], [1, 1]]);
        assert_eq!(ids[0], [0.0, -2.0, -1.0]);
        assert_eq!(ids[5], [0.0, 0.0, 0.0]);
        assert_eq!(ids[6], [1.0, -1.0, -1.0]);
        assert_eq!(text_ids(&[[3, 2], [1, 9]], 2), [[4.0; 3], [5.0; 3]]);
    }
}
