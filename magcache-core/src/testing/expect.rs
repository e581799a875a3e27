//! Runs a trajectory and compares the results with expectations as a whole.

use candle_core::{Result, Tensor};

use super::{BlockRun, Toy};
use crate::{
    Branch, Pass, Session, Step, Streams, Trajectory,
    log::{DecisionLog, Record},
};

/// One pass that ran to its end.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its step.
    pub step: Step,
    /// Its branch.
    pub branch: Branch,
    /// The latents.
    pub input: Tensor,
    /// The prediction.
    pub output: Tensor,
    /// The blocks that really ran, in order.
    pub blocks: Vec<BlockRun>,
    /// Its decisions; those of the first time if the pass was run again.
    pub records: Vec<Record>,
}

impl Ran {
    /// How often a block really ran.
    pub fn count(&self, block: usize) -> usize {
        self.blocks.iter().filter(|b| b.block == block).count()
    }

    /// Whether each of `blocks` blocks ran once, in order.
    pub fn is_whole(&self, blocks: usize) -> bool {
        self.blocks.iter().map(|b| b.block).eq(0..blocks)
    }
}

/// Runs one pass of the request `seed`; without a session, the plain loop.
///
/// Errors: any error of the pass.
pub fn run_pass(
    toy: &Toy,
    session: Option<&mut Session>,
    step: &Step,
    branch: Branch,
    seed: u64,
) -> Result<Ran> {
    let input = toy.latents(seed, step)?;
    toy.take_ran();
    let (output, records) = if let Some(session) = session {
        let output = toy.forward(&input, step, branch, &mut session.pass(step, branch))?;
        let records = session.log().records();
        let first = records.iter().rposition(|r| r.step != step.index).map_or(0, |last| last + 1);
        let own = |r: &&Record| (r.branch, r.eval) == (branch, step.eval);
        (output, records[first..].iter().filter(own).cloned().collect())
    } else {
        (toy.forward(&input, step, branch, &mut Pass::off())?, Vec::new())
    };
    Ok(Ran { step: step.clone(), branch, input, output, blocks: toy.take_ran(), records })
}

/// Runs every pass of a trajectory; without a session, the plain loop.
///
/// Errors: that of the first pass that fails.
pub fn run(
    toy: &Toy,
    mut session: Option<&mut Session>,
    trajectory: &Trajectory,
    seed: u64,
) -> Result<Vec<Ran>> {
    let mut out = Vec::new();
    for step in trajectory.steps() {
        for branch in trajectory.branches_at(&step) {
            out.push(run_pass(toy, session.as_deref_mut(), &step, *branch, seed)?);
        }
    }
    Ok(out)
}

/// One line per decision: `step branch hook blocks compute|reuse why`, with the module after the blocks if it
/// is about one.
pub fn transcript(log: &DecisionLog) -> Vec<String> {
    let line = |r: &Record| {
        let done = if r.reused { "reuse" } else { "compute" };
        let module = r.module.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        format!("{} {} #{} {:?}{module} {done} {}", r.step, r.branch, r.hook.0, r.blocks, r.why)
    };
    log.records().iter().map(line).collect()
}

/// Compares a whole log with the lines of [`transcript`].
///
/// # Panics
///
/// At the first line that differs, with both logs around it.
#[track_caller]
pub fn assert_decisions(log: &DecisionLog, expected: &[&str]) {
    let got = transcript(log);
    let len = got.len().max(expected.len());
    if let Some(i) = (0..len).find(|i| got.get(*i).map(String::as_str) != expected.get(*i).copied()) {
        let (want, have) = (expected.get(i).unwrap_or(&"the end"), got.get(i).map_or("the end", |g| g));
        panic!("decision {i} is `{have}`, expected `{want}`; the whole log:\n{}", got.join("\n"));
    }
}

/// Whether two tensors have the same shape, dtype and bits. NaNs with the same bits are equal.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits = |t: &Tensor| -> Result<Vec<u64>> {
        // f64 represents every value of the narrower floating dtypes exactly.
        let values = t.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(values.into_iter().map(f64::to_bits).collect())
    };
    a.dtype() == b.dtype() && a.shape() == b.shape() && matches!((bits(a), bits(b)), (Ok(a), Ok(b)) if a == b)
}

/// [`same_bits`] of every stream that both have; a residual without text makes no claim about text.
pub(super) fn same_streams(a: &Streams, b: &Streams, text: bool) -> Result<bool> {
    let image = same_bits(&a.image()?, &b.image()?);
    Ok(image
        && match (text, a.text()?, b.text()?) {
            (true, Some(a), Some(b)) => same_bits(&a, &b),
            (true, a, b) => a.is_none() && b.is_none(),
            (false, ..) => true,
        })
}
