//! A recording as tensors, stored next to the profile that was made from it.

#![expect(clippy::disallowed_methods, reason = "the tensors are a file's, on the host")]

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};

use super::{Distances, Magnitudes, Recording, Response, reuse};
use crate::{Branch, Expert, Signal, hint::Hint, metrics::Pooled};

/// Columns of a branch's magnitudes: count, mean and sum of squares of both statistics.
const COLUMNS: usize = 6;

/// Branches by number; [`Branch::Other`] ones follow.
const BRANCHES: [Branch; 3] = [Branch::Cond, Branch::Uncond, Branch::Batched];

/// Why two recordings cannot be joined, or tensors cannot be read as a recording.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// Runs of different lengths have no steps in common.
    #[error("a recording of {got} steps, expected {expected}")]
    Steps {
        /// Steps of the recording to be added.
        got: usize,
        /// Steps of the recording that it was to be added to.
        expected: usize,
    },
    /// A required tensor is missing.
    #[error("the recording has no tensor {0:?}")]
    Missing(String),
    /// A tensor has the wrong shape.
    #[error("the recording's tensor {name:?} has shape {got:?}, expected {expected}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The expected shape.
        expected: String,
    },
    /// A failed tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

crate::hints!(RecordingError);

impl Hint for RecordingError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Steps { expected, .. } => Some(format!("calibrate again with `steps = {expected}`")),
            _ => None,
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, RecordingError>;

impl Recording {
    /// Everything as tensors: `magnitudes.BRANCH` `[steps, 6]` in f64 (count, mean and sum of squared
    /// deviations of the ratios, the same of the cosine distances) and the rows of distances as columns,
    /// `distances.expert`, `distances.branch`, `distances.step` in u32 and `distances.SIGNAL`,
    /// `distances.residual`, `distances.hidden-states` in f64, `[rows]`; NaN where a row has no such signal.
    /// For rehearsed runs also, in f64 with NaN for missing values, `reuse.sources` `[runs, steps, reach]`,
    /// `reuse.products` `[runs, steps, reach, reach]`, `reuse.growth` `[runs, steps]`, `reuse.cosines`
    /// `[runs, steps, steps]`, `reuse.pixels` and `reuse.cost` `[runs]`. Responses, if they were measured, as
    /// further columns: `responses.expert` and `responses.step` in u32, `responses.timestep`,
    /// `responses.latent` and `responses.per-timestep` in f64.
    ///
    /// # Errors
    /// Errors of the tensor library.
    pub fn to_tensors(&self) -> Result<HashMap<String, Tensor>> {
        let mut out = HashMap::new();
        for (branch, magnitudes) in &self.magnitudes {
            let row = |m: &Magnitudes| {
                let of = |p: &Pooled| [p.count as f64, p.mean, p.squares];
                [of(&m.ratio), of(&m.cosine_distance)].concat()
            };
            let values: Vec<f64> = magnitudes.iter().flat_map(row).collect();
            let tensor = Tensor::from_vec(values, (magnitudes.len(), COLUMNS), &Device::Cpu)?;
            out.insert(format!("magnitudes.{branch}"), tensor);
        }
        let whole = |of: &dyn Fn(&Distances) -> u32| {
            Tensor::from_iter(self.distances.iter().map(of).collect::<Vec<_>>(), &Device::Cpu)
        };
        let real = |of: &dyn Fn(&Distances) -> f64| {
            Tensor::from_iter(self.distances.iter().map(of).collect::<Vec<_>>(), &Device::Cpu)
        };
        out.insert("distances.expert".into(), whole(&|row| row.expert.0.into())?);
        out.insert("distances.branch".into(), whole(&|row| number(row.branch))?);
        out.insert("distances.step".into(), whole(&|row| u32::try_from(row.step).unwrap_or(u32::MAX))?);
        out.insert("distances.residual".into(), real(&|row| row.residual)?);
        out.insert("distances.hidden-states".into(), real(&|row| row.hidden_states)?);
        for signal in self.signals() {
            let name = signal.as_str();
            let column = real(&|row| row.signals.get(&signal).copied().unwrap_or(f64::NAN))?;
            out.insert(format!("distances.{name}"), column);
        }
        reuse::insert(&self.reuse, &mut out)?;
        if !self.responses.is_empty() {
            let whole = |of: fn(&Response) -> u32| {
                Tensor::from_iter(self.responses.iter().map(of).collect::<Vec<_>>(), &Device::Cpu)
            };
            let real = |of: fn(&Response) -> f64| {
                Tensor::from_iter(self.responses.iter().map(of).collect::<Vec<_>>(), &Device::Cpu)
            };
            out.insert("responses.expert".into(), whole(|row| row.expert.0.into())?);
            out.insert("responses.step".into(), whole(|row| u32::try_from(row.step).unwrap_or(u32::MAX))?);
            out.insert("responses.timestep".into(), real(|row| row.timestep)?);
            out.insert("responses.latent".into(), real(|row| row.latent)?);
            out.insert("responses.per-timestep".into(), real(|row| row.per_timestep)?);
        }
        Ok(out)
    }

    /// Reads what [`Recording::to_tensors`] wrote.
    ///
    /// # Errors
    /// A tensor that is missing or has the wrong shape.
    #[expect(clippy::iter_over_hash_type, reason = "each goes to a place of its own")]
    pub fn from_tensors(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let mut out = Self::default();
        for (name, tensor) in tensors {
            let Some(branch) = name.strip_prefix("magnitudes.").and_then(branch) else { continue };
            let rows = match *tensor.dims() {
                [steps, COLUMNS] if out.steps == 0 || out.steps == steps => {
                    out.steps = steps;
                    tensor.to_dtype(DType::F64)?.to_vec2::<f64>()?
                }
                _ => return Err(shape(name, tensor, format!("[steps, {COLUMNS}]"))),
            };
            let of = |c: &[f64]| match c {
                [count, mean, squares] => Pooled { count: *count as u64, mean: *mean, squares: *squares },
                _ => Pooled::default(),
            };
            let magnitudes = rows.iter().map(|row| {
                let (ratio, cosine) = row.split_at(COLUMNS / 2);
                Magnitudes { ratio: of(ratio), cosine_distance: of(cosine) }
            });
            out.magnitudes.insert(branch, magnitudes.collect());
        }
        let column = |name: &str| column(tensors, &format!("distances.{name}"));
        let [experts, branches, steps] = [column("expert")?, column("branch")?, column("step")?];
        let [residuals, outputs] = [column("residual")?, column("hidden-states")?];
        let mut signals = Vec::new();
        for signal in Signal::ALL {
            let name = signal.as_str();
            if tensors.contains_key(&format!("distances.{name}")) {
                signals.push((signal, column(name)?));
            }
        }
        let rows = experts.len();
        let others =
            [&branches, &steps, &residuals, &outputs].into_iter().chain(signals.iter().map(|(_, c)| c));
        same_rows("distances", rows, others)?;
        out.distances = (0..rows)
            .map(|row| Distances {
                expert: Expert(experts[row] as u8),
                branch: of_number(branches[row] as u32),
                step: steps[row] as usize,
                signals: signals
                    .iter()
                    .map(|(signal, column)| (*signal, column[row]))
                    .filter(|(_, distance)| !distance.is_nan())
                    .collect::<BTreeMap<_, _>>(),
                residual: residuals[row],
                hidden_states: outputs[row],
            })
            .collect();
        out.reuse = reuse::read(tensors)?;
        out.responses = responses(tensors)?;
        Ok(out)
    }
}

fn responses(tensors: &HashMap<String, Tensor>) -> Result<Vec<Response>> {
    if !tensors.keys().any(|name| name.starts_with("responses.")) {
        return Ok(Vec::new());
    }
    let column = |name: &str| column(tensors, &format!("responses.{name}"));
    let [experts, steps, timesteps] = [column("expert")?, column("step")?, column("timestep")?];
    let [latents, per_timestep] = [column("latent")?, column("per-timestep")?];
    let rows = experts.len();
    same_rows("responses", rows, [&steps, &timesteps, &latents, &per_timestep].into_iter())?;
    let row = |row: usize| Response {
        expert: Expert(experts[row] as u8),
        step: steps[row] as usize,
        timestep: timesteps[row],
        latent: latents[row],
        per_timestep: per_timestep[row],
    };
    Ok((0..rows).map(row).collect())
}

fn column(tensors: &HashMap<String, Tensor>, name: &str) -> Result<Vec<f64>> {
    let Some(tensor) = tensors.get(name) else { return Err(RecordingError::Missing(name.to_owned())) };
    match tensor.dims() {
        [_] => Ok(tensor.to_dtype(DType::F64)?.to_vec1()?),
        _ => Err(shape(name, tensor, "[rows]".into())),
    }
}

fn same_rows<'a>(name: &str, rows: usize, columns: impl Iterator<Item = &'a Vec<f64>>) -> Result<()> {
    for column in columns {
        if column.len() != rows {
            let (got, expected) = (vec![column.len()], format!("[{rows}], as many rows as {name}.expert"));
            return Err(RecordingError::Shape { name: name.to_owned(), got, expected });
        }
    }
    Ok(())
}

pub(super) fn shape(name: &str, tensor: &Tensor, expected: String) -> RecordingError {
    RecordingError::Shape { name: name.to_owned(), got: tensor.dims().to_vec(), expected }
}

fn number(branch: Branch) -> u32 {
    match branch {
        Branch::Other(n) => BRANCHES.len() as u32 + u32::from(n),
        known => BRANCHES.iter().position(|b| *b == known).unwrap_or_default() as u32,
    }
}

fn of_number(number: u32) -> Branch {
    let other = || Branch::Other(number.saturating_sub(BRANCHES.len() as u32) as u8);
    BRANCHES.get(number as usize).copied().unwrap_or_else(other)
}

fn branch(name: &str) -> Option<Branch> {
    let other = || name.strip_prefix("other")?.parse().ok().map(Branch::Other);
    BRANCHES.into_iter().find(|branch| branch.to_string() == name).or_else(other)
}
