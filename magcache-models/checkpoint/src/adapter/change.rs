//! What an adapter adds to a tensor.

use candle_core::{D, Device, Result as TensorResult, Tensor};

use crate::{CheckpointError, Weights};

/// The part of an adapter that is for one tensor.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The adapter's own tensors.
    pub(super) weights: Weights,
    pub(super) kind: Kind,
    /// The factor of the whole change.
    pub(super) strength: f64,
    /// The first row of the change that is the tensor's, and the number of them, if they are not all.
    pub(super) rows: Option<(usize, usize)>,
    /// Whether the second half of the rows comes first.
    pub(super) swapped: bool,
}

/// How a change is stored.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// The product of two matrices, the names of which are these.
    Pair { down: String, up: String },
    /// The change itself.
    Difference(String),
}

impl Change {
    pub(crate) fn is_pair(&self) -> bool {
        matches!(self.kind, Kind::Pair { .. })
    }

    /// `down` `[rank, inputs]` and `up` `[outputs, rank]`, in f32 and with the strength in the second.
    fn factors(&self, down: &str, up: &str) -> Result<(Tensor, Tensor), CheckpointError> {
        let down = matrix(&self.weights, down)?;
        let up = self.arranged(&matrix(&self.weights, up)?)?;
        let up = (up * self.strength)?;
        self.check(f64::from(squares(&down)?) * f64::from(squares(&up)?))?;
        Ok((down, up))
    }

    /// Refuses a change whose squares have no finite sum in f32: no weight is that large.
    fn check(&self, squares: f64) -> Result<(), CheckpointError> {
        if squares <= f64::from(f32::MAX) {
            return Ok(());
        }
        let names = match &self.kind {
            Kind::Pair { down, up } => format!("\"{down}\" and \"{up}\" multiply to"),
            Kind::Difference(name) => format!("\"{name}\" has"),
        };
        let reason = format!("{names} numbers that are too large: they are damaged");
        Err(CheckpointError::Adapter { file: self.weights.place(), reason, hint: None })
    }

    /// The rows that are the tensor's, in its order.
    fn arranged(&self, rows: &Tensor) -> TensorResult<Tensor> {
        let rows = match self.rows {
            Some((start, count)) => rows.narrow(0, start, count)?,
            None => rows.clone(),
        };
        if !self.swapped {
            return Ok(rows);
        }
        let half = rows.dim(0)? / 2;
        Tensor::cat(&[rows.narrow(0, half, half)?, rows.narrow(0, 0, half)?], 0)
    }

    /// The whole change, f32 of this shape.
    fn whole(&self, shape: &[usize]) -> Result<Tensor, CheckpointError> {
        Ok(match &self.kind {
            Kind::Pair { down, up } => {
                let (down, up) = self.factors(down, up)?;
                up.matmul(&down)?.reshape(shape)?
            }
            Kind::Difference(name) => {
                let stored = self.weights.shape(name).unwrap_or_default().to_vec();
                let all = (self.arranged(&self.weights.get_f32(name, &stored)?)? * self.strength)?;
                self.check(squares(&all)?.into())?;
                all.reshape(shape)?
            }
        })
    }
}

/// The sum of the squares.
#[expect(clippy::disallowed_methods, reason = "one number, when an adapter is applied")]
fn squares(values: &Tensor) -> TensorResult<f32> {
    values.sqr()?.sum_all()?.to_scalar()
}

/// A tensor as a matrix: its axes but the first are one.
fn matrix(weights: &Weights, name: &str) -> Result<Tensor, CheckpointError> {
    let shape = weights.shape(name).unwrap_or_default().to_vec();
    Ok(weights.get_f32(name, &shape)?.flatten_from(1)?)
}

/// The sum of all changes of a tensor, f32 of its shape.
pub(crate) fn sum(
    changes: &[Change],
    name: &str,
    shape: &[usize],
    device: &Device,
) -> Result<Tensor, CheckpointError> {
    let mut changes = changes.iter().map(|change| change.whole(shape));
    let Some(first) = changes.next() else {
        return Err(candle_core::Error::msg(format!("nothing changes {name}")).into());
    };
    let total = changes.try_fold(first?, |total, change| Ok::<_, CheckpointError>((total + change?)?))?;
    Ok(total.to_device(device)?)
}

/// Pairs of matrices beside a weight that stays as it is.
#[derive(Debug)]
pub(crate) struct Beside {
    /// `[rank, inputs]`, the ranks of all adapters together.
    pub(crate) down: Tensor,
    /// The rows of `up`, `[outputs, rank]`.
    up: Vec<f32>,
}

impl Beside {
    pub(crate) fn rank(&self) -> usize {
        self.down.dims().first().copied().unwrap_or_default()
    }

    /// Values of a row of `up` from `start` on.
    pub(crate) fn copy(&self, row: usize, start: usize, out: &mut [f32]) {
        let from = self.up.get(row * self.rank() + start..).unwrap_or_default();
        out.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    /// `[outputs, rank]` on a device.
    pub(crate) fn up(&self, device: &Device) -> TensorResult<Tensor> {
        Tensor::from_vec(self.up.clone(), ((), self.rank()), device)
    }

    /// For some of the inputs.
    pub(crate) fn narrow(&self, start: usize, length: usize) -> TensorResult<Self> {
        let down = self.down.narrow(1, start, length)?.contiguous()?;
        Ok(Self { down, up: self.up.clone() })
    }
}

/// Changes that are all pairs, for a weight that stays as it is.
#[expect(clippy::disallowed_methods, reason = "rows of the factors are read where rows of the weight are")]
pub(crate) fn beside(changes: &[Change], name: &str) -> Result<Beside, CheckpointError> {
    let mut factors = Vec::new();
    for change in changes {
        let Kind::Pair { down, up } = &change.kind else {
            return Err(candle_core::Error::msg(format!("{name} has a change that is no product")).into());
        };
        factors.push(change.factors(down, up)?);
    }
    let (down, up): (Vec<Tensor>, Vec<Tensor>) = factors.into_iter().unzip();
    let up = Tensor::cat(&up, D::Minus1)?.flatten_all()?.to_vec1()?;
    Ok(Beside { down: Tensor::cat(&down, 0)?, up })
}
