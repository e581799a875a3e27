//! Which kernel of `rows.cu` computes an operation, and its arguments.

use candle_core::{DType, Result, Tensor};

use crate::row_op::RowOp;

/// A kernel with its input and all arguments that follow input and output.
pub(super) struct Call {
    pub(super) kernel: &'static str,
    /// Contiguous, of the output's shape and type.
    pub(super) input: Tensor,
    pub(super) arguments: Vec<Argument>,
    /// Warps that have something to do.
    pub(super) warps: usize,
}

/// One argument. Of a tensor, the kernel gets the address of its first value.
pub(super) enum Argument {
    /// f32, or null.
    Floats(Option<Tensor>),
    /// Values of the input's type.
    Own(Tensor),
    Count(i64),
    Size(i32),
    Number(f32),
}

use Argument::{Count, Floats, Number, Own, Size};

impl Call {
    /// Of `op` on `x + added`; `None` if no kernel computes it.
    pub(super) fn of(op: &RowOp, x: &Tensor, added: Option<&Tensor>) -> Result<Option<Self>> {
        let known = matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16);
        let Some(sizes) = Sizes::of(x).filter(|_| known) else { return Ok(None) };
        let bias = match added {
            Some(added) if added.dims() != [sizes.channels as usize] => return Ok(None),
            added => Floats(added.map(wide).transpose()?),
        };
        let Sizes { tokens, channels, rows, .. } = sizes;
        let own = |residual: &Tensor| {
            let fits = residual.shape() == x.shape() && residual.dtype() == x.dtype();
            fits.then(|| aligned(residual).map(Own)).transpose()
        };
        let (kernel, arguments, warps) = match *op {
            // These follow no product.
            RowOp::Modulate { .. } | RowOp::LayerNorm { .. } if added.is_some() => return Ok(None),
            RowOp::Modulate { shift, scale, eps } => {
                let (Some(shift), Some(scale)) = (sizes.rows(shift)?, sizes.rows(scale)?) else {
                    return Ok(None);
                };
                ("layer_norm", layer_norm(shift, scale, sizes, 1.0, eps), rows)
            }
            RowOp::LayerNorm { weight, bias, eps } => {
                let row = |x: &Tensor| sizes.rows(&x.reshape((1, 1, ()))?);
                let (Some(weight), Some(bias)) = (row(weight)?, row(bias)?) else { return Ok(None) };
                ("layer_norm", layer_norm(bias, weight, sizes, 0.0, eps), rows)
            }
            RowOp::RmsNorm { weight, eps } | RowOp::Turn { weight, eps, .. } => {
                let width = weight.dims1()?;
                if width == 0 || !width.is_multiple_of(2) || !(channels as usize).is_multiple_of(width) {
                    return Ok(None);
                }
                let (cos, sin, half) = match *op {
                    RowOp::Turn { table, .. } => {
                        table.check(x.shape(), weight)?;
                        let half = table.values().dim(2)?;
                        (Some(wide(&table.cos()?)?), Some(wide(&table.sin()?)?), half)
                    }
                    _ => (None, None, 1),
                };
                let of_row = channels as usize / width;
                let norms = rows * of_row as i64;
                let sizes = [Size(of_row as i32), Size(width as i32), Size(tokens), Size(half as i32)];
                let tensors = [bias, Floats(Some(wide(weight)?)), Floats(cos), Floats(sin)];
                let all = tensors.into_iter().chain([Count(norms)]).chain(sizes);
                ("rms_norm", all.chain([Number(eps as f32)]).collect(), norms)
            }
            RowOp::GatedAdd { residual, gate } => {
                let (Some(residual), Some((gate, strides))) = (own(residual)?, sizes.rows(gate)?) else {
                    return Ok(None);
                };
                ("gated_add", gated_add(bias, residual, Some(gate), strides, sizes), rows)
            }
            RowOp::Add { residual } => {
                let Some(residual) = own(residual)? else { return Ok(None) };
                ("gated_add", gated_add(bias, residual, None, [0, 0], sizes), rows)
            }
            RowOp::Gelu | RowOp::Bias => {
                let gelu = i32::from(matches!(op, RowOp::Gelu));
                ("biased", vec![bias, Count(rows), Size(channels), Size(gelu)], rows)
            }
        };
        Ok(Some(Self { kernel, input: aligned(x)?, arguments, warps: warps as usize }))
    }
}

fn layer_norm(
    (shift, [shift_batch, shift_token]): (Tensor, [i64; 2]),
    (scale, [scale_batch, scale_token]): (Tensor, [i64; 2]),
    Sizes { tokens, channels, rows, .. }: Sizes,
    unit: f32,
    eps: f64,
) -> Vec<Argument> {
    vec![
        Floats(Some(shift)),
        Count(shift_batch),
        Count(shift_token),
        Floats(Some(scale)),
        Count(scale_batch),
        Count(scale_token),
        Count(rows),
        Size(tokens),
        Size(channels),
        Number(unit),
        Number(eps as f32),
    ]
}

fn gated_add(
    bias: Argument,
    residual: Argument,
    gate: Option<Tensor>,
    [batch, token]: [i64; 2],
    Sizes { tokens, channels, rows, .. }: Sizes,
) -> Vec<Argument> {
    vec![bias, residual, Floats(gate), Count(batch), Count(token), Count(rows), Size(tokens), Size(channels)]
}

/// The sizes of a tensor whose rows a kernel computes.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: i32,
    /// An even number: lanes take two at a time.
    channels: i32,
    /// Of all samples.
    rows: i64,
}

impl Sizes {
    /// Of `[batch, tokens, channels]`, or of any other rank as one sample; `None` if it is empty, or no
    /// kernel counts so far.
    fn of(x: &Tensor) -> Option<Self> {
        let (batch, tokens, channels) = match *x.dims() {
            [batch, tokens, channels] => (batch, tokens, channels),
            [ref rows @ .., channels] => (1, rows.iter().product(), channels),
            [] => return None,
        };
        let rows = (batch * tokens) as i64;
        let (tokens, channels) = (i32::try_from(tokens).ok()?, i32::try_from(channels).ok()?);
        (channels > 0 && channels % 2 == 0 && rows > 0).then_some(Self { batch, tokens, channels, rows })
    }

    /// A view `[batch or 1, tokens or 1, channels]` in f32, with its channels side by side, and its strides
    /// from a sample and from a token to the next, 0 along axes of length 1; `None` if it does not fit.
    fn rows(self, view: &Tensor) -> Result<Option<(Tensor, [i64; 2])>> {
        let &[batch, tokens, channels] = view.dims() else { return Ok(None) };
        let fits = |own: usize, all: usize| own == 1 || own == all;
        if !fits(batch, self.batch)
            || !fits(tokens, self.tokens as usize)
            || channels != self.channels as usize
        {
            return Ok(None);
        }
        let values = view.to_dtype(DType::F32)?;
        let values = if values.stride().last() == Some(&1) { values } else { values.contiguous()? };
        let stride = |axis: usize, length: usize| if length == 1 { 0 } else { values.stride()[axis] as i64 };
        let strides = [stride(0, batch), stride(1, tokens)];
        Ok(Some((values, strides)))
    }
}

fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.contiguous()
}

/// Contiguous, and with pairs of values where a lane can load both at once.
fn aligned(x: &Tensor) -> Result<Tensor> {
    let fits = x.is_contiguous() && x.layout().start_offset().is_multiple_of(2);
    if fits { Ok(x.clone()) } else { x.force_contiguous() }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
