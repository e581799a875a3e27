//! The positions of tokens, whole numbers in f32: (image, row, column) in FLUX.1, (time, row, column,
//! position in the text) in FLUX.2. Text tokens of FLUX.1 are all at 0.
//!
//! Source: `FluxPipeline`, `FluxKontextPipeline` and `Flux2Pipeline` of diffusers 0.42.1.

/// Distance in time between the generated image and the first reference image of FLUX.2, and from each to the
/// next.
const REFERENCE_STEP: usize = 10;

/// Positions of the tokens of an image in FLUX.1, row by row: (`image`, row, column).
///
/// `image` is 0 for the generated image and 1 for the one given to Kontext.
pub fn image_ids(grid: [usize; 2], image: usize) -> Vec<[f32; 3]> {
    ids(grid, |row, column| [image, row, column])
}

/// Positions of the tokens of an image in FLUX.2, row by row: (0, row, column, 0).
pub fn latent_ids(grid: [usize; 2]) -> Vec<[f32; 4]> {
    ids(grid, |row, column| [0, row, column, 0])
}

/// Positions of the tokens of reference images in FLUX.2, one image after the other:
/// (10 for the first image, 20 for the second, .., row, column, 0).
pub fn reference_ids(grids: &[[usize; 2]]) -> Vec<[f32; 4]> {
    let times = (1..).map(|number| number * REFERENCE_STEP);
    let images = times.zip(grids);
    images.flat_map(|(time, grid)| ids(*grid, |row, column| [time, row, column, 0])).collect()
}

/// Positions of the text in FLUX.2: (0, 0, 0, position in the text).
pub fn text_ids(tokens: usize) -> Vec<[f32; 4]> {
    ids([1, tokens], |_, place| [0, 0, 0, place])
}

fn ids<const N: usize>(
    [rows, columns]: [usize; 2],
    of: impl Fn(usize, usize) -> [usize; N],
) -> Vec<[f32; N]> {
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    places.map(|(row, column)| of(row, column).map(|position| position as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The others are held by the packing of the recorded image autoencoders.
    #[test]
    fn the_tokens_of_a_reference_carry_its_number() {
        assert!(image_ids([2, 3], 1).iter().all(|[image, ..]| *image == 1.0));
        assert_eq!(image_ids([2, 3], 1)[4], [1.0, 1.0, 1.0]);
    }
}
