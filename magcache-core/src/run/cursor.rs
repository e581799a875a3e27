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
            Self::At { .. } => "make the trajectory of the solver's own sigmas: `Trajectory::from_sigmas`",
            Self::Order { .. } | Self::Over { .. } => {
                "`run.cursor()` is for one evaluation of a step, `run.cursor().second_order()` for two and one at \
                 the last step; ask it once for each, not for each branch"
            }
        };
        Some(hint.to_owned())
    }
}

/// The evaluations of a solver that owns its loop and calls a closure, in the order in which they come: one
/// for each step, or as [`Cursor::second_order`] says. [`Cursor::step`] is called once for each, also where
/// several branches run.
///
/// A timestep alone does not say whose evaluation it is: Heun looks at the next step's timestep before that
/// step begins. So each one is compared with what must come next, and another is an error that names both.
#[derive(Clone, Debug)]
pub struct Cursor<'r> {
    run: &'r Trajectory,
    /// Whether a step is evaluated twice.
    twice: bool,
    step: usize,
    eval: u8,
}

impl Trajectory {
    /// The evaluations of a first-order solver, from the first step that runs.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { run: self, twice: false, step: self.first, eval: 0 }
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

    /// The step whose timestep is nearest.
    fn nearest(&self, timestep: f64) -> Option<(usize, f64)> {
        let all = self.timesteps.iter().copied().enumerate();
        all.min_by(|(_, a), (_, b)| (a - timestep).abs().total_cmp(&(b - timestep).abs()))
    }
}

impl Cursor<'_> {
    /// The same for a solver that evaluates each step but the last a second time, at the next timestep
    /// (Heun).
    #[must_use]
    pub fn second_order(self) -> Self {
        Self { twice: true, ..self }
    }

    /// The evaluation that the solver begins now, by the timestep that it calls with.
    ///
    /// # Errors
    /// The expected one is at another timestep, or there is none left; the cursor is then unchanged.
    pub fn step(&mut self, timestep: f64) -> Result<Step, NoStep> {
        let (steps, next) = (self.run.len(), self.step + usize::from(self.eval));
        let Some(expected) = self.run.timesteps.get(next) else {
            return Err(NoStep::Over { timestep, steps });
        };
        if !self.run.is_at(next, timestep) {
            let (step, eval, expected) = (self.step, self.eval, *expected);
            return Err(match self.run.nearest(timestep) {
                Some((nearest, there)) if !self.run.is_at(nearest, timestep) => {
                    NoStep::At { timestep, nearest, there }
                }
                _ => NoStep::Order { timestep, step, eval, expected },
            });
        }
        let step = Step { eval: self.eval, ..self.run.step(self.step) };
        let again = self.twice && self.eval == 0 && self.step + 1 < steps;
        (self.step, self.eval) = if again { (self.step, 1) } else { (self.step + 1, 0) };
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
    fn a_first_order_solver_is_at_each_step_once() {
        let run = run();
        let mut cursor = run.cursor();
        assert_eq!(cursor.step(1000.0).unwrap(), run.step(0));
        let far = NoStep::At { timestep: 500.0, nearest: 2, there: 400.0 };
        assert_eq!(cursor.step(500.0), Err(far));
        assert_eq!(cursor.step(750.1).unwrap(), run.step(1));
        // Heun begins step 1 at the timestep at which it looked before.
        let again = NoStep::Order { timestep: 750.0, step: 2, eval: 0, expected: 400.0 };
        assert_eq!(cursor.step(750.0), Err(again));
        assert_eq!(cursor.step(400.0).unwrap(), run.step(2), "the cursor is unchanged by an error");
        assert_eq!(cursor.step(400.0), Err(NoStep::Over { timestep: 400.0, steps: 3 }));
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
            let mut cursor = run.cursor();
            for (i, pair) in timesteps.windows(2).enumerate() {
                let between = cursor.step(pair[0] + 0.3 * (pair[1] - pair[0]));
                assert!(matches!(between, Err(NoStep::At { .. })), "{between:?}, {unit}");
                assert_eq!(cursor.step(f64::from(pair[0] as f32)).unwrap().index, i, "rounded, {unit}");
            }
        }
        let one = Trajectory { timesteps: vec![1.0], ..Trajectory::plain(1, &[Branch::Cond]) };
        assert!(one.cursor().step(0.95).is_err() && one.cursor().step(1.0).is_ok());
    }

    #[test]
    fn the_second_look_of_heun_belongs_to_its_step() {
        let (run, mut seen) = (run(), Vec::new());
        let mut cursor = run.cursor().second_order();
        // Heun calls at its own timestep and at the next one, but at the last step only at its own.
        for timestep in [1000.0, 750.0, 750.0, 400.0, 400.0] {
            let step = cursor.step(timestep).unwrap();
            assert_eq!(step.timestep, timestep);
            seen.push((step.index, step.eval));
        }
        assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]);
        assert_eq!(cursor.step(0.0), Err(NoStep::Over { timestep: 0.0, steps: 3 }));
        // A first-order solver is told at its third call.
        let mut cursor = run.cursor().second_order();
        cursor.step(1000.0).unwrap();
        cursor.step(750.0).unwrap();
        let expected = NoStep::Order { timestep: 400.0, step: 1, eval: 0, expected: 750.0 };
        assert_eq!(cursor.step(400.0), Err(expected));
        assert_eq!(cursor.step(750.0).unwrap().index, 1);
    }
}
