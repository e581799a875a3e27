//! The frequencies of timestep embeddings, whose last bits depend on the CPU that recorded a case.

use anyhow::Result;
use candle_core::Tensor;
use magcache_core::Pass;

use super::{case::Case, report::CaseReport, transformer::Network};

/// Which of the [`FREQUENCIES`] frequencies of the timestep embedding torch rounds up, for each kind of CPU
/// that recordings come from; the last two are those of 32 and of 64 frequencies, which small models have.
///
/// The first call determines which ones apply to a recording; the whole case must then agree within its
/// tolerance.
const ROUNDED_UP: [&[usize]; 5] = [&[], &[12, 106], &[13, 44], &[3], &[6, 53]];

/// Number of frequencies in the published models.
pub(super) const FREQUENCIES: usize = 128;

/// The network with its frequencies rounded as in the case's first call.
pub(super) fn like_first_call<N: Network>(
    case: &Case,
    report: &mut CaseReport,
    round_up: impl Fn(&mut N, &[usize]) -> candle_core::Result<()>,
) -> Result<N> {
    let first = case.calls().find_map(|call| Some((call, call.outputs.get("sample")?.clone())));
    let Some((call, key)) = first else { return N::load(&case.folder, &case.on) };
    let run = |which: &[usize]| {
        let mut model = N::load(&case.folder, &case.on)?;
        round_up(&mut model, which)?;
        let got = model.prepare(call)?(&mut Pass::off())?;
        Ok((model, got))
    };
    like_recorded(report, run, case.tensor(&key)?)
}

/// The result of `run` with the frequencies rounded as on the CPU that recorded the case: the one nearest to
/// `want`.
pub(super) fn like_recorded<T>(
    report: &mut CaseReport,
    run: impl Fn(&[usize]) -> Result<(T, Tensor)>,
    want: &Tensor,
) -> Result<T> {
    let [nearest, others @ ..] = ROUNDED_UP;
    let (mut best, got) = run(nearest)?;
    if got.dims() != want.dims() {
        // The comparison itself will report it.
        return Ok(best);
    }
    let error =
        |got: &Tensor| -> Result<f32> { Ok((got - want)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?) };
    let (mut least, mut rounded) = (error(&got)?, nearest);
    for which in others {
        let (other, got) = run(which)?;
        let error = error(&got)?;
        if error < least {
            (best, least, rounded) = (other, error, which);
        }
    }
    let which = match rounded {
        [] => return Ok(best),
        [one] => format!("frequency {one} of the timestep is"),
        several => {
            let all: Vec<String> = several.iter().map(usize::to_string).collect();
            format!("frequencies {} of the timestep are", all.join(" and "))
        }
    };
    report.note(format!("{which} rounded up, as on the CPU of the recording"));
    Ok(best)
}
