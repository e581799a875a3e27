//! A [`Rule`] on tensors: keeps what it compares, and measures.

use candle_core::{Result, Tensor};

use crate::{
    Branch, Head, Rule, Step, Streams, TimestepCache, Verdict, Window,
    snapshot::{Persist, Reader, SnapshotError, Writer},
    strategy::{Measure, Norm, Quantity, Seen, Since},
};

/// A rule whose number is measured on the tensors of a model.
#[derive(Debug)]
pub(crate) struct Measured(pub(crate) Box<dyn Rule>);

/// The state of one slot.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// What the rule compares: a stored state of another quantity does not fit.
    measure: Option<Measure>,
    /// The tensor of the earlier step.
    anchor: Option<Tensor>,
    /// The tensor of this step, until it is known whether the step is computed.
    pending: Option<Tensor>,
    /// What the rule carries.
    carried: Option<f64>,
}

impl Compared {
    /// What is compared, and with which step.
    fn words(&self) -> [(&'static str, &'static str); 2] {
        let of = self.measure.map_or("nothing", |measure| match measure.of {
            Quantity::FrontResidual => "front-residual",
            Quantity::FrontResidualOfAll => "front-residual-of-all",
            Quantity::Signal(signal) => signal.as_str(),
        });
        let since = self.measure.map_or("nothing", |measure| match measure.since {
            Since::Previous => "previous",
            Since::Computed => "computed",
        });
        [("of", of), ("since", since)]
    }
}

impl Persist for Compared {
    fn save(&self, to: &mut Writer<'_>) {
        for (name, word) in self.words() {
            to.at(name).value(word);
        }
        to.field("anchor", &self.anchor);
        to.field("pending", &self.pending);
        to.field("carried", &self.carried);
    }

    fn load(&mut self, from: &Reader<'_>) -> std::result::Result<(), SnapshotError> {
        for (name, word) in self.words() {
            let from = from.at(name);
            match from.value()? {
                stored if stored == word => {}
                other => return Err(from.odd(word, other)),
            }
        }
        self.anchor = from.field("anchor")?;
        self.pending = from.field("pending")?;
        self.carried = from.field("carried")?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.anchor.bytes() + self.pending.bytes()
    }

    fn whole_bytes(&self) -> usize {
        self.anchor.whole_bytes() + self.pending.whole_bytes()
    }
}

impl Measure {
    fn look(&self, x: &Head<'_>) -> Result<Tensor> {
        let seen = match self.of {
            Quantity::FrontResidual => x.front_residual()?,
            Quantity::FrontResidualOfAll => x.front_residual_of_all()?,
            Quantity::Signal(signal) => x.signal(signal)?,
        };
        if self.every == 1 {
            return Ok(seen);
        }
        let tokens = x.every(self.every, &seen, self.of == Quantity::FrontResidualOfAll)?;
        let chosen = tokens.len();
        seen.index_select(&Tensor::from_vec(tokens, chosen, seen.device())?, 1)
    }

    /// The tensor of this step and, if there is an earlier one, its distance from it.
    fn compare(&self, x: &Head<'_>, anchor: Option<&Tensor>) -> Result<(Tensor, Option<f64>)> {
        let Some(anchor) = anchor else { return Ok((self.look(x)?, None)) };
        if (self.of, self.norm, self.every) == (Quantity::FrontResidual, Norm::L1, 1) {
            let (now, distance) = x.front_residual_and_change(anchor)?;
            return Ok((now, Some(distance)));
        }
        let now = self.look(x)?;
        let distance = match self.norm {
            Norm::L1 => x.relative_l1(&now, anchor)?,
            Norm::L2 => x.relative_l2(&now, anchor)?,
        };
        Ok((now, Some(distance)))
    }
}

impl TimestepCache for Measured {
    type State = Compared;

    fn state(&self) -> Compared {
        Compared { measure: self.0.measure(), ..Compared::default() }
    }

    fn window(&self) -> Window {
        self.0.window()
    }

    fn is_static(&self) -> bool {
        self.0.measure().is_none()
    }

    fn uses_signals(&self) -> bool {
        self.0.measure().is_some_and(|measure| matches!(measure.of, Quantity::Signal(_)))
    }

    fn threshold(&self, step: &Step) -> Option<f64> {
        self.0.threshold(step)
    }

    fn head(&self, state: &mut Compared, step: &Step, branch: Branch, x: &Head<'_>) -> Result<Verdict> {
        let mut seen = Seen { step, branch, history: x.history, measured: None };
        if let Some(measure) = self.0.measure() {
            let (now, distance) = measure.compare(x, state.anchor.as_ref())?;
            seen.measured = distance;
            match measure.since {
                Since::Previous => state.anchor = Some(now),
                Since::Computed => state.pending = Some(now),
            }
        }
        Ok(self.0.decide(&seen, &mut state.carried))
    }

    fn tail(&self, state: &mut Compared, _: &Step, _: Branch, _: &Streams, _: &Streams) -> Result<()> {
        state.anchor = state.pending.take().or(state.anchor.take());
        state.carried = None;
        Ok(())
    }
}
