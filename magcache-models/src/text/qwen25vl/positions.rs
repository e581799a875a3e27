//! Positions of tokens of which some are pictures: (frame, row, column).
//!
//! Text goes on by one on all axes. The tokens of a picture have the frame of the token before it plus one,
//! and rows and columns from there on; the text behind it goes on at its largest position plus one. Source:
//! `get_rope_index` of `Qwen2_5_VLModel` in transformers 5.23.0, which diffusers 0.42.1 does not reach: it
//! leaves out which tokens are pictures, and all of them get the positions of text.

/// The positions of a row of tokens, in which the tokens `image` stand for pictures of so many rows and
/// columns, one picture after the other. What is left of either is text.
pub(super) fn positions(ids: &[u32], image: u32, grids: &[[usize; 2]]) -> Vec<[usize; 3]> {
    let mut all = Vec::with_capacity(ids.len());
    let (mut next, mut at) = (0, 0);
    let mut grids = grids.iter();
    while let Some(id) = ids.get(at) {
        let grid = if *id == image { grids.next() } else { None };
        match grid {
            Some([rows, columns]) => {
                let places = (0..*rows).flat_map(|row| (0..*columns).map(move |column| (row, column)));
                all.extend(places.map(|(row, column)| [next, next + row, next + column]));
                next += rows.max(columns);
                at += rows * columns;
            }
            None => {
                all.push([next; 3]);
                next += 1;
                at += 1;
            }
        }
    }
    all.truncate(ids.len());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_on_behind_the_longest_side_of_a_picture() {
        let at = positions(&[5, 9, 9, 9, 9, 9, 9, 5], 9, &[[2, 3]]);
        assert_eq!(at[0], [0; 3]);
        assert_eq!((at[1], at[3], at[4]), ([1; 3], [1, 1, 3], [1, 2, 1]));
        assert_eq!(at[7], [4; 3]);
        assert_eq!(positions(&[5, 5], 9, &[]), [[0; 3], [1; 3]]);
        assert_eq!(positions(&[9], 9, &[[2, 2]]).len(), 1, "fewer tokens than the picture has");
    }
}
