//! Scalar metrics of tensors. The only file that reads tensors back from their device.
//!
//! Whatever the tensors' dtype, every metric is made from sums of a few hundred `f32` values, added up as
//! integers ([`Sums`]): the order does not matter, nor the number of threads, nor which of several ranks has
//! which tokens. Host tensors are read once, in a single sweep on all cores, without temporaries. Device
//! tensors are reduced on the device, and only the sums are read back: of several pairs in one transfer, for
//! which the device is waited for once. The rows of a batch share one decision,
//! so the metric of a batch is the maximum over its rows.
#![expect(clippy::disallowed_methods, reason = "this is the file that may read tensors back")]

use candle_core::{CpuStorage, DType, Result, Storage, Tensor, bail};

mod magnitude;
mod pooled;
pub(crate) mod reads;
mod sums;

pub use magnitude::{MagnitudeRatio, magnitude_ratio, magnitudes};
pub(crate) use magnitude::{pooled, token_magnitudes};
pub use pooled::Pooled;
pub use sums::Sums;

use crate::threads;

/// `mean|a − b| / mean|b|`, the largest over the rows of dimension 0. NaN where `b` is all zeros.
pub fn relative_l1(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok(worst(l1_sums(a, b)?.iter().map(Sums::ratio)))
}

/// `‖a − b‖₂ / ‖b‖₂`, the largest over the rows of dimension 0.
pub fn relative_l2(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok(worst(l2_sums(a, b)?.iter().map(|sums| sums.ratio().sqrt())))
}

/// Of every row of dimension 0, `Σ|a − b|` and `Σ|b|`.
pub fn l1_sums(a: &Tensor, b: &Tensor) -> Result<Vec<Sums>> {
    let [sums] = l1_sums_of([(a, b)])?;
    Ok(sums)
}

/// [`l1_sums`] of several pairs, with one read.
pub fn l1_sums_of<const N: usize>(pairs: [(&Tensor, &Tensor); N]) -> Result<[Vec<Sums>; N]> {
    Ok(by_row(pairs, Tensor::abs, f32::abs)?.map(|rows| rows.into_iter().map(|row| row.sums).collect()))
}

/// Of every row of dimension 0, `Σ(a − b)²` and `Σb²`.
pub fn l2_sums(a: &Tensor, b: &Tensor) -> Result<Vec<Sums>> {
    let [rows] = by_row([(a, b)], Tensor::sqr, |d| d * d)?;
    Ok(rows.into_iter().map(|row| row.sums).collect())
}

/// `y − x`, and its [`l1_sums`] against `before`; on the host in one sweep over all three.
pub fn residual_and_l1_sums(y: &Tensor, x: &Tensor, before: &Tensor) -> Result<(Tensor, Vec<Sums>)> {
    let host = |t: &Tensor| t.device().is_cpu() && t.dtype() == DType::F32 && t.is_contiguous();
    if y.shape() != x.shape() || y.shape() != before.shape() || ![y, x, before].into_iter().all(host) {
        let residual = y.sub(x)?;
        let sums = l1_sums(&residual, before)?;
        return Ok((residual, sums));
    }
    reads::count();
    let (rows, token) = (y.dims().first().copied().unwrap_or(1).max(1), token(y));
    let n = (y.elem_count() / rows).max(1);
    let mut residual = vec![0f32; y.elem_count()];
    let sums = with_host(y, |y| {
        with_host(x, |x| {
            with_host(before, |before| {
                let rows = residual.chunks_mut(n).enumerate().map(|(i, out)| {
                    let own = i * n..i * n + out.len();
                    residual_row(out, &y[own.clone()], &x[own.clone()], &before[own], token)
                });
                rows.collect()
            })
        })
    })???;
    Ok((Tensor::from_vec(residual, y.shape(), y.device())?, sums))
}

/// `out = y − x`, and its sums against `before`.
fn residual_row(out: &mut [f32], y: &[f32], x: &[f32], before: &[f32], token: usize) -> Sums {
    let parts = threads::by_part_of(out, token, |part, out| {
        let (y, x, before) = (&y[part.clone()], &x[part.clone()], &before[part]);
        let mut sums = Sums::default();
        let tokens =
            out.chunks_mut(token).zip(before.chunks(token)).zip(y.chunks(token).zip(x.chunks(token)));
        for ((out, before), (y, x)) in tokens {
            let blocks = out.chunks_mut(BLOCK).zip(before.chunks(BLOCK));
            for ((out, before), (y, x)) in blocks.zip(y.chunks(BLOCK).zip(x.chunks(BLOCK))) {
                out.iter_mut().zip(y.iter().zip(x)).for_each(|(out, (y, x))| *out = y - x);
                sums = sums.and(block_sums(out, before, f32::abs));
            }
        }
        sums
    });
    parts.into_iter().fold(Sums::default(), Sums::and)
}

/// `mean|t|` of every row of dimension 0.
pub fn mean_abs(t: &Tensor) -> Result<Vec<f64>> {
    let [means] = mean_abs_of([(t, t)])?;
    Ok(means.into_iter().map(|mean| mean.of_b).collect())
}

/// `mean|a − b|` of every row of dimension 0.
pub fn mean_abs_difference(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let [means] = mean_abs_of([(a, b)])?;
    Ok(means.into_iter().map(|mean| mean.difference).collect())
}

/// Of one row of two tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanAbs {
    /// `mean|a − b|`.
    pub difference: f64,
    /// `mean|b|`.
    pub of_b: f64,
}

/// [`MeanAbs`] of every row of several pairs, with one read.
pub fn mean_abs_of<const N: usize>(pairs: [(&Tensor, &Tensor); N]) -> Result<[Vec<MeanAbs>; N]> {
    let means =
        |row: Row| MeanAbs { difference: row.sums.difference() / row.len, of_b: row.sums.of_b() / row.len };
    Ok(by_row(pairs, Tensor::abs, f32::abs)?.map(|rows| rows.into_iter().map(means).collect()))
}

/// `√mean (a − b)²` of every row of dimension 0.
pub fn rms_difference(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let [rows] = by_row([(a, b)], Tensor::sqr, |d| d * d)?;
    Ok(rows.iter().map(|r| (r.sums.difference() / r.len).sqrt()).collect())
}

/// The largest of several rows' metrics, or NaN if one is NaN: the rows of a batch share one decision.
pub fn worst(rows: impl IntoIterator<Item = f64>) -> f64 {
    rows.into_iter().fold(NONE, nan_max)
}

/// The maximum over no rows.
const NONE: f64 = f64::NEG_INFINITY;

/// One row of dimension 0.
struct Row {
    sums: Sums,
    /// Number of elements.
    len: f64,
}

/// Of each pair, with one read.
fn by_row<const N: usize>(
    pairs: [(&Tensor, &Tensor); N],
    on_device: impl Fn(&Tensor) -> Result<Tensor>,
    on_host: impl Fn(f32) -> f32 + Copy + Sync,
) -> Result<[Vec<Row>; N]> {
    reads::count();
    let mut all = Vec::with_capacity(N);
    let mut unread = Vec::new();
    for (a, b) in pairs {
        match row_sums(a, b, &on_device, on_host)? {
            RowSums::Read(rows) => all.push(rows),
            RowSums::OnDevice { sums, len } => {
                all.push((0..sums.dim(0)?).map(|_| Row { sums: Sums::default(), len }).collect());
                unread.push((all.len() - 1, sums));
            }
        }
    }
    if !unread.is_empty() {
        let sums = Tensor::cat(&unread.iter().map(|(_, sums)| sums).collect::<Vec<_>>(), 0)?;
        let mut read = sums.to_vec2::<f32>()?.into_iter();
        for (place, _) in unread {
            for (row, sums) in all[place].iter_mut().zip(&mut read) {
                row.sums = Sums::of_block(sums[0], sums[1]);
            }
        }
    }
    all.try_into().map_err(|_| candle_core::Error::msg("as many results as pairs"))
}

/// The sums of two tensors.
enum RowSums {
    Read(Vec<Row>),
    /// `[rows, 2]`; each row has so many values.
    OnDevice {
        sums: Tensor,
        len: f64,
    },
}

fn row_sums(
    a: &Tensor,
    b: &Tensor,
    on_device: impl Fn(&Tensor) -> Result<Tensor>,
    on_host: impl Fn(f32) -> f32 + Copy + Sync,
) -> Result<RowSums> {
    if a.shape() != b.shape() {
        bail!("a metric of shapes {:?} and {:?}", a.shape(), b.shape());
    }
    let (rows, token) = (a.dims().first().copied().unwrap_or(1).max(1), token(a));
    let (a, b) = (a.to_dtype(DType::F32)?.contiguous()?, b.to_dtype(DType::F32)?.contiguous()?);
    let n = a.elem_count() / rows;
    let len = n as f64;
    // A rank may have no token of a sample.
    if n == 0 {
        return Ok(RowSums::Read((0..rows).map(|_| Row { sums: Sums::default(), len }).collect()));
    }
    if !a.device().is_cpu() {
        let part = if n.is_multiple_of(token) { token } else { n };
        let shape = (rows, n / part, part);
        let sums = device_sums(&a.reshape(shape)?, &b.reshape(shape)?, on_device)?;
        return Ok(RowSums::OnDevice { sums, len });
    }
    with_host(&a, |a| {
        with_host(&b, |b| {
            let row = |(a, b): (&[f32], &[f32])| Row { sums: sums(a, b, token, on_host), len };
            RowSums::Read(a.chunks(n).zip(b.chunks(n)).map(row).collect())
        })
    })?
}

/// Of `[rows, parts, values]`, the sums of `f(a − b)` and of `f(b)`, `[rows, 2]`. Part by part: one sum over
/// all values would be the work of one core of a GPU, and lose precision.
fn device_sums(a: &Tensor, b: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let sum = |x: &Tensor| f(x)?.sum(2)?.sum(1);
    Tensor::stack(&[sum(&(a - b)?)?, sum(b)?], 1)
}

/// The number of values after which a block ends in any case: those of a token, `[batch, tokens, channels]`,
/// so that tokens can be anywhere; else none.
fn token(t: &Tensor) -> usize {
    match t.dims() {
        [_, _, channels] => (*channels).max(1),
        _ => BLOCK,
    }
}

/// Sums of `f(a − b)` and `f(b)`, in blocks that end with a token.
fn sums(a: &[f32], b: &[f32], token: usize, f: impl Fn(f32) -> f32 + Copy + Sync) -> Sums {
    let parts = threads::by_part(a.len(), token, |part| {
        let mut sums = Sums::default();
        for (a, b) in a[part.clone()].chunks(token).zip(b[part].chunks(token)) {
            for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
                sums = sums.and(block_sums(a, b, f));
            }
        }
        sums
    });
    parts.into_iter().fold(Sums::default(), Sums::and)
}

/// Number of values summed in f32: a few dozen per lane.
const BLOCK: usize = 512;

/// Sums of a block.
fn block_sums(a: &[f32], b: &[f32], f: impl Fn(f32) -> f32) -> Sums {
    let mut differences = [0f32; BLOCK];
    let differences = &mut differences[..b.len()];
    for (difference, (a, b)) in differences.iter_mut().zip(a.iter().zip(b)) {
        *difference = a - b;
    }
    Sums::of_block(sum(differences, &f), sum(b, &f))
}

/// Σ f(x) in several lanes, so that the loop vectorises and rounding errors stay small.
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0f32; LANES];
    let (body, rest) = x.as_chunks::<LANES>();
    for x in body {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += f(*x);
        }
    }
    rest.iter().fold(lanes.iter().sum(), |sum, x| sum + f(*x))
}

/// The larger of two, or NaN if one is NaN, which `f64::max` would hide.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// False if a *host* tensor of any floating dtype and layout holds a NaN or an infinity. Always true for
/// device tensors, which are not read back.
pub fn is_finite_on_host(t: &Tensor) -> Result<bool> {
    if !t.device().is_cpu() {
        return Ok(true);
    }
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    let (Storage::Cpu(data), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        bail!("expected a contiguous tensor on the host")
    };
    Ok(match data {
        // x·0 is 0 for finite x and NaN otherwise, so the sum needs no branches.
        CpuStorage::F32(data) => all_blocks(&data[start..end], |block| sum(block, |x| x * 0.0) == 0.0),
        CpuStorage::F64(data) => all_blocks(&data[start..end], |block| block.iter().all(|x| x.is_finite())),
        CpuStorage::F16(data) => all_blocks(&data[start..end], |block| block.iter().all(|x| x.is_finite())),
        CpuStorage::BF16(data) => all_blocks(&data[start..end], |block| block.iter().all(|x| x.is_finite())),
        // Integers, and weight formats that are never computed in.
        _ => true,
    })
}

/// Whether `test` holds for all blocks of a slice, on all cores.
fn all_blocks<T: Sync>(data: &[T], test: impl Fn(&[T]) -> bool + Sync) -> bool {
    let parts = threads::by_part(data.len(), BLOCK, |part| data[part].chunks(BLOCK).all(&test));
    parts.into_iter().all(|holds| holds)
}

fn with_host<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = t.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(data)), Some((start, end))) => Ok(f(&data[start..end])),
        _ => bail!("expected a contiguous f32 tensor on the host"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn t(values: &[f32], rows: usize) -> Tensor {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()
    }

    #[test]
    fn relative_l1_is_the_textbook_value() {
        let (a, b) = (t(&[1.0, 2.0, -3.0], 1), t(&[1.0, 1.0, -1.0], 1));
        assert_eq!(relative_l1(&a, &b).unwrap(), 1.0);
        assert!((relative_l2(&a, &b).unwrap() - (5f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn sums_on_a_device_are_those_on_the_host() {
        let waves = |pace: f32| (0..2 * 50 * 24).map(move |i| (pace * i as f32).sin());
        let [a, b] = [0.37, 0.91].map(|pace| Tensor::from_iter(waves(pace), &Device::Cpu).unwrap());
        let (a, b) = (a.reshape((2, 50, 24)).unwrap(), b.reshape((2, 50, 24)).unwrap());
        let sums = device_sums(&a, &b, Tensor::abs).unwrap().to_vec2::<f32>().unwrap();
        let [rows, same] = l1_sums_of([(&a, &b), (&a, &b)]).unwrap();
        assert!(rows == same && rows == l1_sums(&a, &b).unwrap());
        for (row, sums) in rows.iter().zip(sums) {
            assert!((f64::from(sums[0]) / row.difference() - 1.0).abs() < 1e-5);
            assert!((f64::from(sums[1]) / row.of_b() - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn a_batch_takes_its_worst_row() {
        let (a, b) = (t(&[1.0, 1.0, 3.0, 1.0], 2), t(&[1.0, 1.0, 1.0, 1.0], 2));
        assert_eq!(relative_l1(&a, &b).unwrap(), 1.0);
        assert_eq!(worst(mean_abs_difference(&a, &b).unwrap()), 1.0);
    }

    #[test]
    fn absolute_metrics_are_by_row() {
        let (a, b) = (t(&[1.0, -2.0, 3.0, 5.0], 2), t(&[1.0, 1.0, 0.0, 1.0], 2));
        assert_eq!(mean_abs(&a).unwrap(), [1.5, 4.0]);
        assert_eq!(mean_abs_difference(&a, &b).unwrap(), [1.5, 3.5]);
        assert_eq!(rms_difference(&a, &b).unwrap(), [4.5f64.sqrt(), 12.5f64.sqrt()]);
        assert!(worst([1.0, f64::NAN, 2.0]).is_nan());
    }

    #[test]
    fn long_rows_are_summed_in_the_same_order_however_many_threads_there_are() {
        let n = 3 * threads::PART + 517;
        let values =
            |phase: f64| (0..n).map(|i| (i as f64 * 0.37 + phase).sin() as f32).collect::<Vec<f32>>();
        let (a, b) = (values(0.0), values(0.5));
        let exact = |f: &dyn Fn(f64) -> f64| {
            let pairs = a.iter().zip(&b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
            pairs.fold((0.0, 0.0), |sums, (a, b)| (sums.0 + f(a - b), sums.1 + f(b)))
        };
        let (num, den) = exact(&f64::abs);
        let l1 = relative_l1(&t(&a, 1), &t(&b, 1)).unwrap();
        assert!((l1 / (num / den) - 1.0).abs() < 1e-7, "{l1} {}", num / den);
        let (num, den) = exact(&|x| x * x);
        let l2 = relative_l2(&t(&a, 1), &t(&b, 1)).unwrap();
        assert!((l2 / (num / den).sqrt() - 1.0).abs() < 1e-7);
        let mut broken = a.clone();
        *broken.last_mut().unwrap() = f32::INFINITY;
        assert!(is_finite_on_host(&t(&a, 1)).unwrap() && !is_finite_on_host(&t(&broken, 1)).unwrap());
    }

    #[test]
    fn the_residual_and_its_change_are_those_taken_one_after_the_other() {
        let n = 2 * (threads::PART * 9 + 31);
        let values = |scale: f32| (0..n).map(|i| (i as f32 * scale).sin()).collect::<Vec<f32>>();
        let [y, x, before] = [0.11, 0.13, 0.17].map(|scale| t(&values(scale), 2));
        let (residual, sums) = residual_and_l1_sums(&y, &x, &before).unwrap();
        let plain = y.sub(&x).unwrap();
        assert_eq!(residual.to_vec2::<f32>().unwrap(), plain.to_vec2::<f32>().unwrap());
        assert_eq!(sums, l1_sums(&plain, &before).unwrap());
        // A view takes the slow path.
        let view = |t: &Tensor| t.narrow(1, 3, 100).unwrap();
        let (residual, sums) = residual_and_l1_sums(&view(&y), &view(&x), &view(&before)).unwrap();
        assert_eq!(residual.dims(), [2, 100]);
        assert_eq!(sums, l1_sums(&view(&plain), &view(&before)).unwrap());
        assert!(residual_and_l1_sums(&y, &view(&x), &before).is_err());
    }

    #[test]
    fn nan_is_never_hidden() {
        let (a, b) = (t(&[f32::NAN, 1.0, 1.0, 1.0], 2), t(&[1.0, 1.0, 1.0, 1.0], 2));
        assert!(relative_l1(&a, &b).unwrap().is_nan());
        assert!(!is_finite_on_host(&a).unwrap() && is_finite_on_host(&b).unwrap());
        let infinite = t(&[f32::NEG_INFINITY, 0.0], 1);
        assert!(!is_finite_on_host(&infinite).unwrap());
    }

    #[test]
    fn no_dtype_or_layout_hides_a_value_that_is_no_number() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let views = |values: &[f32]| {
                    let x = t(values, 2).to_dtype(dtype).unwrap();
                    [x.clone(), x.t().unwrap(), x.narrow(1, 1, 2).unwrap(), x.narrow(0, 1, 1).unwrap()]
                };
                let finite = |values: &[f32]| views(values).map(|x| is_finite_on_host(&x).unwrap());
                assert_eq!(finite(&[1.0, -2.0, 0.0, 3.0, 4.0, 5.0]), [true; 4], "{dtype:?}");
                assert_eq!(finite(&[1.0, 2.0, 0.0, 3.0, 4.0, bad]), [false; 4], "{dtype:?} {bad}");
                assert_eq!(
                    finite(&[bad, 2.0, 0.0, 3.0, 4.0, 5.0]),
                    [false, false, true, true],
                    "{dtype:?} {bad}"
                );
            }
        }
    }
}
