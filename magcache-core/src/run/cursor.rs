//! Steps for solvers that own their loop and call the network through a closure.

use crate::{Step, Trajectory, hint::Hint};

/// How far a timestep may be from the one of its step, as a part of the distance to the nearest other one:
/// room for rounding to f32, in any unit.
const TOLERANCE: f64 = 0.01;

/// A call at a timestep that the run does not have there.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoStep {
    /// No step has it.
    #[error("no step of the run has the timestep {timestep}, the nearest is step {nearest} with {there}")]
    At {
        /// The timestep of the call.
        timestep: f64,
        /// The nearest step.
        nearest: usize,
        /// Its timestep.
        there: f64,
    },
    /// Another evaluation was expected.
    #[error(
        "the solver called at the timestep {timestep}, evaluation {eval} of step {step} is at {expected}"
    )]
    Order {
        /// The timestep of the call.
        timestep: f64,
        /// The step that is expected.
        step: usize,
        /// Its evaluation.
        eval: u8,
        /// The expected timestep.
        expected: f64,
    },
    /// Every step has run.
    #[error("the solver called at the timestep {timestep} after the last of {steps} steps")]
    Over {
        /// The timestep of the call.
        timestep: f64,
        /// Steps of the run.
        steps: usize,
    },
}

crate::hints!(NoStep);

impl Hint for NoStep {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::At { .. } | Self::Over { .. } => {
                "make the trajectory of the solver's own sigmas: `Trajectory::from_sigmas`"
            }
            Self::Order { .. } => {
                "a cursor is for two calls a step and one at the last; a first-order solver asks `run.step_at`"
            }
        };
        Some(hint.to_owned())
    }
}

/// The evaluations of a second-order solver in the order in which they come: each step's own and, but for the
/// last step, a second one at the next timestep (Heun). [`Cursor::step`] is called once for each, also where
/// several branches run.
///
/// It does not guess from the number of calls: a timestep that is not the expected one is an error that names
/// both.
#[derive(Clone, Debug)]
pub struct Cursor<'r> {
    run: &'r Trajectory,
    step: usize,
    eval: u8,
}

impl Trajectory {
    /// The step at which a first-order solver is that calls its closure with this timestep.
    ///
    /// # Errors
    /// No step has it; the nearest one is named.
    pub fn step_at(&self, timestep: f64) -> Result<Step, NoStep> {
        let far = |(_, own): &(usize, &f64)| (**own - timestep).abs();
        let nearest = self.timesteps.iter().enumerate().min_by(|a, b| far(a).total_cmp(&far(b)));
        match nearest {
            Some((index, _)) if self.is_at(index, timestep) => Ok(self.step(index)),
            Some((nearest, there)) => Err(NoStep::At { timestep, nearest, there: *there }),
            None => Err(NoStep::Over { timestep, steps: 0 }),
        }
    }

    /// The evaluations of a second-order solver, from the first step that runs.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { run: self, step: self.first, eval: 0 }
    }

    /// Whether a timestep is that of the step at `index`.
    fn is_at(&self, index: usize, timestep: f64) -> bool {
        let Some(own) = self.timesteps.get(index) else { return false };
        let apart = |other: &f64| (other - own).abs();
        let near = [index.checked_sub(1), Some(index + 1)].into_iter().flatten();
        let near = near.filter_map(|i| self.timesteps.get(i)).map(apart).filter(|apart| *apart > 0.0);
        // A run of one step ends at 0.
        let room = near.min_by(f64::total_cmp).unwrap_or(own.abs());
        apart(&timestep) <= TOLERANCE * room
    }
}

impl Cursor<'_> {
    /// The evaluation that the solver begins now, by the timestep that it calls with.
    ///
    /// # Errors
    /// The expected one is at another timestep, or there is none left; the cursor is then unchanged.
    pub fn step(&mut self, timestep: f64) -> Result<Step, NoStep> {
        let steps = self.run.len();
        let Some(expected) = self.run.timesteps.get(self.step + usize::from(self.eval)) else {
            return Err(NoStep::Over { timestep, steps });
        };
        if !self.run.is_at(self.step + usize::from(self.eval), timestep) {
            let (step, eval, expected) = (self.step, self.eval, *expected);
            return Err(NoStep::Order { timestep, step, eval, expected });
        }
        let step = Step { eval: self.eval, ..self.run.step(self.step) };
        let last = self.step + 1 == steps;
        (self.step, self.eval) = if self.eval == 0 && !last { (self.step, 1) } else { (self.step + 1, 0) };
        if step.eval == 0 {
            return Ok(step);
        }
        let at = self.run.sigmas.get(step.index + 1).copied().unwrap_or(step.sigma);
        Ok(Step { timestep, sigma: at, ..step })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Branch;

    fn run() -> Trajectory {
        Trajectory::from_sigmas(&[1.0, 0.75, 0.4, 0.0], &[Branch::Cond])
    }

    #[test]
    fn a_first_order_solver_finds_its_step_by_the_timestep() {
        let run = run();
        assert_eq!(run.step_at(400.04).unwrap(), run.step(2));
        let far = NoStep::At { timestep: 500.0, nearest: 2, there: 400.0 };
        assert_eq!(run.step_at(500.0), Err(far));
    }

    #[test]
    fn what_is_near_follows_from_the_distance_of_the_steps() {
        for unit in [1.0, 1000.0] {
            // Shift 12, whose first steps are close together.
            let sigma = |i: usize| (1.0 - i as f64 / 50.0) * 12.0 / (1.0 + 11.0 * (1.0 - i as f64 / 50.0));
            let sigmas: Vec<f64> = (0..=50).map(sigma).collect();
            let run = Trajectory::from_sigmas(&sigmas, &[Branch::Cond]);
            let timesteps: Vec<f64> = sigmas[..50].iter().map(|sigma| unit * sigma).collect();
            let run = Trajectory { timesteps: timesteps.clone(), ..run };
            for (i, pair) in timesteps.windows(2).enumerate() {
                assert_eq!(run.step_at(f64::from(pair[0] as f32)).unwrap().index, i, "rounded, {unit}");
                let between = run.step_at(pair[0] + 0.3 * (pair[1] - pair[0]));
                assert!(between.is_err(), "{between:?}, {unit}");
            }
        }
        let one = Trajectory { timesteps: vec![1.0], ..Trajectory::plain(1, &[Branch::Cond]) };
        assert!(one.step_at(1.0).is_ok() && one.step_at(0.95).is_err());
    }

    #[test]
    fn the_second_look_of_heun_belongs_to_its_step() {
        let (run, mut seen) = (run(), Vec::new());
        let mut cursor = run.cursor();
        // Heun calls at its own timestep and at the next one, but at the last step only at its own.
        for timestep in [1000.0, 750.0, 750.0, 400.0, 400.0] {
            let step = cursor.step(timestep).unwrap();
            assert_eq!(step.timestep, timestep);
            seen.push((step.index, step.eval));
        }
        assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]);
        assert_eq!(cursor.step(0.0), Err(NoStep::Over { timestep: 0.0, steps: 3 }));
        // A first-order solver on a cursor is told at its second call.
        let mut cursor = run.cursor();
        cursor.step(1000.0).unwrap();
        cursor.step(750.0).unwrap();
        let expected = NoStep::Order { timestep: 400.0, step: 1, eval: 0, expected: 750.0 };
        assert_eq!(cursor.step(400.0), Err(expected));
        assert_eq!(cursor.step(750.0).unwrap().index, 1, "the cursor is unchanged by an error");
    }
}
