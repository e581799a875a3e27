//! Checks that a stored and restored run continues as if uninterrupted.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{Bench, Ran, run_pass, same_bits};
use crate::{
    Branch, Session, Step, Trajectory,
    snapshot::{Snapshot, SnapshotError},
};

/// Rule 41: A run that is stored after any pass and restored into a fresh session of the same hooks gives the
/// same outputs, decisions and counts as an uninterrupted run; and storing the restored state again gives the
/// same snapshot.
///
/// # Panics
///
/// If not, with the pass after which the run was stored.
pub fn check_resume(bench: &Bench<'_>) {
    let place = bench.place("41: a stored run goes on as if nothing had happened");
    let new = || bench.session(bench.table(bench.info.example));
    for trajectory in [bench.trajectory.clone(), bench.two_experts()] {
        resumes(&place, &trajectory, new, &|session, step, branch| {
            run_pass(&bench.toy, Some(session), step, branch, 1)
        });
    }
}

/// Stores and restores after every pass of a run, in sessions made by `new`; `None` means there is nothing to
/// check.
///
/// # Panics
///
/// As [`check_resume`], with `place` prepended.
pub fn resumes(
    place: &str,
    trajectory: &Trajectory,
    new: impl Fn() -> Option<Session>,
    pass: &dyn Fn(&mut Session, &Step, Branch) -> candle_core::Result<Ran>,
) {
    let steps = trajectory.steps();
    let passes: Vec<(Step, Branch)> =
        steps.flat_map(|s| trajectory.branches_at(&s).iter().map(move |b| (s.clone(), *b))).collect();
    let ran = |session: &mut Session, (step, branch): &(Step, Branch)| {
        pass(session, step, *branch).unwrap_or_else(|e| panic!("{place}: step {} {branch}: {e}", step.index))
    };
    let Some(mut whole) = new() else { return };
    let mut stored = Vec::new();
    let mut outputs = Vec::new();
    for pass in &passes {
        stored.push(snapshot(place, &whole));
        outputs.push(ran(&mut whole, pass).output);
    }
    stored.push(snapshot(place, &whole));
    for (k, snapshot_at_k) in stored.iter().enumerate() {
        let at = format!("{place}: stored after {k} of {} passes", passes.len());
        let Some(mut session) = new() else { return };
        let restored = session.restore(&snapshot_at_k.reader(&Device::Cpu));
        restored.unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_same(&at, snapshot_at_k, &snapshot(place, &session));
        for (pass, output) in passes.iter().zip(&outputs).skip(k) {
            let here = format!("{at}: step {} {}", pass.0.index, pass.1);
            assert!(same_bits(&ran(&mut session, pass).output, output), "{here} differs");
        }
        assert_same(&format!("{at}, then run to its end"), &stored[passes.len()], &snapshot(place, &session));
        let counts = |session: &Session| {
            let slots = session.slots();
            (slots.bytes(), slots.peak_bytes(), slots.evicted())
        };
        assert!(counts(&session) == counts(&whole), "{at}: {:?}, not {:?}", counts(&session), counts(&whole));
        assert!(session.log() == whole.log(), "{at}: the log is another one");
    }
}

/// The snapshot of a session as if read from a file: its tensors are contiguous copies that share no memory
/// with it.
fn snapshot(place: &str, session: &Session) -> Snapshot {
    let stored = || -> Result<Snapshot, SnapshotError> {
        let mut snapshot = Snapshot::default();
        session.save(&mut snapshot.writer())?;
        Ok(snapshot)
    };
    let stored = stored().unwrap_or_else(|e| panic!("{place}: {e}"));
    let copied = |(path, tensor): (&String, &Tensor)| Ok((path.clone(), tensor.force_contiguous()?));
    let tensors: candle_core::Result<BTreeMap<_, _>> = stored.tensors().iter().map(copied).collect();
    let tensors = tensors.unwrap_or_else(|e| panic!("{place}: {e}"));
    Snapshot::from_parts(tensors, stored.values().clone())
}

/// Asserts that both hold the same values under the same names, bit for bit.
fn assert_same(at: &str, expected: &Snapshot, got: &Snapshot) {
    let differs = expected.values().iter().find(|(path, value)| got.values().get(*path) != Some(value));
    if let Some((path, value)) = differs {
        panic!("{at}: `{path}` is {:?}, without a break it is {value:?}", got.values().get(path));
    }
    for (path, tensor) in expected.tensors() {
        let same = got.tensors().get(path).is_some_and(|got| same_bits(got, tensor));
        assert!(same, "{at}: the tensor `{path}` differs");
    }
    let names = |s: &Snapshot| (s.values().len(), s.tensors().len());
    assert!(
        names(expected) == names(got),
        "{at}: {:?} parts, without a break {:?}",
        names(got),
        names(expected)
    );
}
