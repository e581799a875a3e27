//! Tensors that stay on their devices, on the way of an engine that works while the host goes on.
//!
//! Before each exchange the ranks tell each other on the control plane what it is and how much goes where,
//! with the limit that every wait has there: so all of them begin the same one, and nobody begins what does
//! not fit. Then the host waits too, until everything has arrived, another rank has stopped or time is up. In
//! the last two cases the engine is aborted, for what it has begun would wait for ever.

use std::{
    fmt::Debug,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use candle_core::{DType, Result, Tensor};
use magcache_core::{Group, hint};

use super::DataPlane;

/// How long a rank that has nothing more to send waits for the others to take it.
const FAREWELL: Duration = Duration::from_secs(1);

/// An engine between devices that never lets the host wait. Dropping it aborts what it does.
pub(super) trait Fabric: Debug + Send {
    /// Its name, for messages.
    const NAME: &'static str;

    /// Whether joining or leaving, whichever was begun last, is done.
    ///
    /// # Errors
    /// Those of the engine.
    fn is_ready(&mut self) -> Result<bool>;

    /// Begins to send `parts[p]` to the rank at place `p`, and to receive a part of the shape `shapes[p]` and
    /// the same dtype from it; the own part stays where it is. `about` names what they are.
    ///
    /// # Errors
    /// Those of the engine, with the other rank.
    fn begin(&mut self, about: &str, parts: Vec<Tensor>, shapes: &[Vec<usize>]) -> Result<()>;

    /// The parts from all places, once they are here.
    ///
    /// # Errors
    /// Those of the engine.
    fn poll(&mut self) -> Result<Option<Vec<Tensor>>>;

    /// Begins to leave the others, when nothing is on its way.
    ///
    /// # Errors
    /// Those of the engine.
    fn leave(&mut self) -> Result<()>;
}

/// Tensors between the devices of a group.
#[derive(Debug)]
pub(super) struct DevicePlane<F: Fabric> {
    group: Group,
    /// `None` once it was aborted.
    fabric: Mutex<Option<F>>,
}

impl<F: Fabric> DevicePlane<F> {
    /// Between the ranks of a group, all of which join with `fabric`: it waits until they have.
    ///
    /// # Errors
    /// Those of the engine; a rank that does not join in time, or has stopped the run.
    pub(super) fn new(group: Group, mut fabric: F) -> Result<Self> {
        let joined = || Ok(fabric.is_ready()?.then_some(()));
        wait(&group, F::NAME, "every rank joins", group.patience(), joined)?;
        Ok(Self { group, fabric: Mutex::new(Some(fabric)) })
    }
}

/// How much a part is, as the ranks tell each other.
fn count(dtype: DType, values: usize) -> String {
    format!("{values} values of {}", dtype.as_str())
}

/// Asks until there is an answer; then whether another rank has stopped the run, or time is up.
fn wait<T>(
    group: &Group,
    engine: &str,
    about: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    let mut tries = 0u32;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        tries = tries.wrapping_add(1);
        if tries.is_multiple_of(32) {
            group.check().map_err(hint::wrap)?;
        }
        match begun.elapsed() {
            waited if waited >= limit => {
                let (rank, seconds) = (group.rank(group.place()), limit.as_secs_f64());
                let message = format!("rank {rank} has waited {seconds} s for {engine}: {about}");
                let hint = "look at the other ranks and their GPUs; `patience = N` waits longer";
                return Err(hint::tensor_error(message, hint));
            }
            _ if tries < 100 => std::hint::spin_loop(),
            waited if waited < Duration::from_millis(5) => thread::yield_now(),
            _ => thread::sleep(Duration::from_micros(50)),
        }
    }
}

impl<F: Fabric> DataPlane for DevicePlane<F> {
    fn place(&self) -> usize {
        self.group.place()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn all_to_all(&self, about: &str, parts: Vec<Tensor>, shapes: &[Vec<usize>]) -> Result<Vec<Tensor>> {
        let own = self.place();
        let (Some(dtype), true) = (parts.get(own).map(Tensor::dtype), parts.len() == self.size()) else {
            candle_core::bail!("{about}: {} parts for {} ranks", parts.len(), self.size())
        };
        let counts = parts.iter().map(|part| count(part.dtype(), part.elem_count()).into_bytes()).collect();
        let told = self.group.exchange(about, counts).map_err(hint::wrap)?;
        for (place, (told, shape)) in told.iter().zip(shapes).enumerate() {
            let (told, wanted) = (String::from_utf8_lossy(told), count(dtype, shape.iter().product()));
            if told != wanted {
                candle_core::bail!("{about}: {told} from rank {}, expected {wanted}", self.group.rank(place));
            }
        }
        let mut fabric = self.fabric.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(engine) = fabric.as_mut() else {
            candle_core::bail!("{about}: {} was aborted on rank {}", F::NAME, self.group.rank(own))
        };
        let arrived = engine
            .begin(about, parts, shapes)
            .and_then(|()| wait(&self.group, F::NAME, about, self.group.patience(), || engine.poll()));
        if arrived.is_err() {
            *fabric = None;
        }
        arrived
    }
}

impl<F: Fabric> Drop for DevicePlane<F> {
    fn drop(&mut self) {
        let fabric = self.fabric.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Of a run that failed nobody takes anything any more.
        if let (Some(fabric), None) = (fabric, self.group.fault())
            && fabric.leave().is_ok()
        {
            let left = || Ok(fabric.is_ready()?.then_some(()));
            _ = wait(&self.group, F::NAME, "every rank leaves", FAREWELL, left);
        }
    }
}

#[cfg(test)]
mod tests;
