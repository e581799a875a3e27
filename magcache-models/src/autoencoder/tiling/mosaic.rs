//! Assembles a whole video tile after tile, each over all frames; an image is a video of one frame.
//!
//! In this order only one tile's stream is kept at a time. Kept between tiles are the finished bands and, of
//! the unfinished neighbours, only the parts to be blended: the lowest rows of every tile above and the last
//! columns of the tile to the left.

use candle_core::Tensor;

use super::{Grid, Span, blend};

/// Axes of `[batch, channels, frames, height, width]`.
const TIME: usize = 2;
const ROWS: usize = 3;
const COLUMNS: usize = 4;

/// What a tile left for a neighbour, chunk by chunk.
type Edge = Vec<Tensor>;

/// Assembles a video from tiles.
///
/// `tile` yields the chunks of the tile at the given rows and columns one by one,
/// `[batch, channels, frames, height, width]` with `unit` pixels per latent; `finish` is applied to every
/// finished band of rows.
pub(crate) fn assemble<E: From<candle_core::Error>>(
    grid: &Grid,
    unit: usize,
    tile: impl Fn(Span, Span, &mut dyn FnMut(Tensor) -> Result<(), E>) -> Result<(), E>,
    finish: impl Fn(Tensor) -> Result<Tensor, E>,
) -> Result<Tensor, E> {
    let columns: Vec<Span> = grid.columns.spans().collect();
    let mut above: Vec<Edge> = vec![Edge::new(); columns.len()];
    let mut whole = Whole::default();
    for rows in grid.rows.spans() {
        let mut band = Whole::default();
        let mut left = Edge::new();
        for (span, above) in columns.iter().zip(&mut above) {
            let (mut below, mut right, mut kept) = (Edge::new(), Edge::new(), Vec::new());
            tile(rows, *span, &mut |chunk| {
                let i = kept.len();
                let mut chunk = chunk;
                if let Some(above) = above.get(i) {
                    chunk = blend(above, &chunk, ROWS, unit * grid.rows.overlap())?;
                }
                if let Some(left) = left.get(i) {
                    chunk = blend(left, &chunk, COLUMNS, unit * grid.columns.overlap())?;
                }
                below.push(last(&chunk, ROWS, unit * grid.rows.overlap())?);
                right.push(last(&chunk, COLUMNS, unit * grid.columns.overlap())?);
                chunk = first(&chunk, ROWS, unit * grid.rows.stride)?;
                kept.push(first(&chunk, COLUMNS, unit * grid.columns.stride)?.force_contiguous()?);
                Ok(())
            })?;
            (*above, left) = (below, right);
            let kept = Tensor::cat(&kept, TIME)?;
            band.put(&kept, COLUMNS, unit * span.start, unit * grid.columns.length)?;
        }
        let Some(band) = band.0 else { continue };
        let band = finish(band)?;
        // A finished row may be several rows of pixels.
        let scale = band.dim(ROWS)? / rows.length.min(grid.rows.stride).max(1);
        whole.put(&band, ROWS, scale * rows.start, scale * grid.rows.length)?;
    }
    whole.0.ok_or_else(|| candle_core::Error::msg(format!("no tiles in {grid:?}")).into())
}

/// A tensor that is filled piece by piece along one axis.
#[derive(Default)]
struct Whole(Option<Tensor>);

impl Whole {
    fn put(&mut self, part: &Tensor, axis: usize, start: usize, length: usize) -> candle_core::Result<()> {
        let whole = match self.0.take() {
            Some(whole) => whole,
            None => {
                let mut shape = part.dims().to_vec();
                if let Some(n) = shape.get_mut(axis) {
                    *n = length;
                }
                Tensor::zeros(shape, part.dtype(), part.device())?
            }
        };
        whole.slice_set(&part.contiguous()?, axis, start)?;
        self.0 = Some(whole);
        Ok(())
    }
}

fn first(x: &Tensor, axis: usize, count: usize) -> candle_core::Result<Tensor> {
    x.narrow(axis, 0, count.min(x.dim(axis)?))
}

/// Copies the end, because a view would keep the whole tensor in memory.
fn last(x: &Tensor, axis: usize, count: usize) -> candle_core::Result<Tensor> {
    let count = count.min(x.dim(axis)?);
    x.narrow(axis, x.dim(axis)? - count, count)?.force_contiguous()
}
