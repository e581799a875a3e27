//! A group at one place of a pass: what hooks ask the other ranks.

use std::fmt;

use candle_core::{DType, Result, Tensor};

use super::Group;
use crate::{
    Branch, Step, Verdict, hint,
    log::DecisionLog,
    metrics::{self, Pooled, Sums},
    state::HookId,
};

/// The ranks that run the same pass, at one hook of it. Without a group every answer is this rank's own.
#[derive(Clone, Copy)]
pub(crate) struct Together<'a> {
    pub(crate) group: Option<&'a Group>,
    /// Whether tensors with a token axis are parts; else every rank holds all tensors whole.
    pub(crate) split: bool,
    /// The step, as [`Step::place`] counts them.
    pub(crate) step: usize,
    pub(crate) branch: Branch,
    pub(crate) hook: HookId,
}

impl<'a> Together<'a> {
    /// A pass of this rank alone.
    pub(crate) fn alone(step: &Step) -> Self {
        Self { group: None, split: false, step: step.place(), branch: Branch::Cond, hook: HookId(0) }
    }

    fn about(&self, what: &str) -> String {
        format!("{what} of hook {} at step {}, {}", self.hook.0, self.step, self.branch)
    }

    /// The group, if each of its ranks holds parts.
    fn parts(&self) -> Option<&'a Group> {
        self.group.filter(|_| self.split)
    }

    /// The sums over all ranks, row by row. What every rank holds whole is added as often as there are ranks,
    /// which a quotient of two sums does not notice.
    pub(crate) fn sums(&self, own: Vec<Sums>) -> Result<Vec<Sums>> {
        let Some(group) = self.parts() else { return Ok(own) };
        let bytes: Vec<u8> = own.iter().flat_map(|sums| sums.to_bytes()).collect();
        let all = group.gather(&self.about("metric"), &bytes).map_err(hint::wrap)?;
        let mut total = vec![Sums::default(); own.len()];
        for bytes in &all {
            let theirs = super::numbers(bytes).map(Sums::of_bytes);
            total.iter_mut().zip(theirs).for_each(|(total, part)| *total = total.and(part));
        }
        Ok(total)
    }

    /// `mean|a − b| / mean|b|` over the tokens of all ranks, the largest over the rows of dimension 0.
    pub(crate) fn relative_l1(&self, a: &Tensor, b: &Tensor) -> Result<f64> {
        Ok(metrics::worst(self.sums(metrics::l1_sums(a, b)?)?.iter().map(Sums::ratio)))
    }

    /// [`metrics::magnitudes`] of the tokens of all ranks, `[batch, tokens, channels]`, in their order.
    pub(crate) fn magnitudes(&self, now: &Tensor, before: &Tensor) -> Result<(Pooled, Pooled)> {
        let own = metrics::token_magnitudes(now, before)?;
        let Some(group) = self.parts() else { return Ok(metrics::pooled(own)) };
        let bytes: Vec<u8> = own.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        let all = group.gather(&self.about("magnitudes"), &bytes).map_err(hint::wrap)?;
        let pairs = |bytes: &Vec<u8>| -> Vec<[f64; 2]> {
            let numbers: Vec<f64> = super::numbers(bytes).map(f64::from_le_bytes).collect();
            numbers.as_chunks().0.to_vec()
        };
        let (all, batch): (Vec<_>, _) = (all.iter().map(pairs).collect(), now.dim(0)?.max(1));
        let of_row = |row: usize| {
            all.iter().flat_map(move |rank| {
                let tokens = rank.len() / batch;
                rank.iter().skip(row * tokens).take(tokens).copied()
            })
        };
        Ok(metrics::pooled((0..batch).flat_map(of_row)))
    }

    /// The largest over all ranks, NaN if one is.
    pub(crate) fn largest(&self, own: f64) -> Result<f64> {
        let Some(group) = self.group else { return Ok(own) };
        let all = group.gather(&self.about("largest number"), &own.to_le_bytes()).map_err(hint::wrap)?;
        Ok(crate::metrics::worst(all.iter().flat_map(|bytes| super::numbers(bytes)).map(f64::from_le_bytes)))
    }

    /// Whether it holds on every rank.
    pub(crate) fn all(&self, what: &str, own: bool) -> Result<bool> {
        let Some(group) = self.group else { return Ok(own) };
        group.all(&self.about(what), own).map_err(hint::wrap)
    }

    /// The bytes that all ranks hold together: `bytes` here, of which every rank holds `whole`.
    pub(crate) fn bytes(&self, bytes: usize, whole: usize) -> Result<usize> {
        let Some(group) = self.parts() else { return Ok(bytes) };
        let part = bytes.saturating_sub(whole) as u64;
        let all = group.gather(&self.about("bytes"), &part.to_le_bytes()).map_err(hint::wrap)?;
        let parts = all.iter().flat_map(|bytes| super::numbers(bytes)).map(u64::from_le_bytes);
        Ok(whole + parts.sum::<u64>() as usize)
    }

    /// Where the part of `len` things of this rank begins among those of all, and how many those are.
    pub(crate) fn place_of(&self, len: usize) -> Result<(usize, usize)> {
        let Some(group) = self.parts() else { return Ok((0, len)) };
        let all = group.gather(&self.about("tokens"), &(len as u64).to_le_bytes()).map_err(hint::wrap)?;
        let lens = all.iter().flat_map(|bytes| super::numbers(bytes)).map(|n| u64::from_le_bytes(n) as usize);
        let lens: Vec<usize> = lens.collect();
        Ok((lens.iter().take(group.place()).sum(), lens.iter().sum()))
    }

    /// The tokens of all ranks, `[batch, tokens, channels]`, in order.
    #[expect(clippy::disallowed_methods, reason = "tokens of other ranks come through the host")]
    pub(crate) fn all_tokens(&self, own: &Tensor) -> Result<Tensor> {
        let Some(group) = self.parts() else { return Ok(own.clone()) };
        let (batch, _, channels) = own.dims3()?;
        let values: Vec<f32> = own.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let all = group.gather(&self.about("tokens"), &bytes).map_err(hint::wrap)?;
        let part = |bytes: &Vec<u8>| {
            let values: Vec<f32> = super::numbers(bytes).map(f32::from_le_bytes).collect();
            let tokens = values.len() / (batch * channels).max(1);
            Tensor::from_vec(values, (batch, tokens, channels), own.device())
        };
        Tensor::cat(&all.iter().map(part).collect::<Result<Vec<_>>>()?, 1)?.to_dtype(own.dtype())
    }

    /// Compares a decision, and those before it in the log, before it is acted on.
    pub(crate) fn agree(&self, verdict: &Verdict, log: &DecisionLog) -> Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        let Verdict { reuse, why, metric, accumulated } = verdict;
        let what = if *reuse { "reuse" } else { "compute" };
        let number = |name: &str, n: &Option<f64>| n.map_or(String::new(), |n| format!(", {name} {n:?}"));
        let (metric, accumulated) = (number("metric", metric), number("accumulated", accumulated));
        let here = format!("{what} ({why}{metric}{accumulated}; log {:016x})", log.digest());
        group.agree(&self.about("decision"), &here).map_err(hint::wrap)
    }
}

impl fmt::Debug for Together<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.about("place"))
    }
}
