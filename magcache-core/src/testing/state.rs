//! Checks the state that a strategy leaves in its slots.

use candle_core::Device;

use super::{Bench, run_pass};
use crate::{
    Session, Step,
    snapshot::{Persist, Snapshot, SnapshotError},
};

/// Rule 49: A computed pass leaves the state of a computed pass, whatever `head` returned: if a verdict to
/// reuse was overruled, the state is bit-identical to that of a table that never reuses. And the bytes that a
/// state reports are those of the tensors that it stores.
///
/// # Panics
///
/// If not, with the step.
pub fn check_state(bench: &Bench<'_>) {
    let place = bench.place("49: a pass that had to compute leaves the state of a computed pass");
    let example = bench.table(bench.info.example);
    let Some(mut session) = bench.session(example.clone()) else { return };
    let never = || bench.session(bench.table(bench.info.never));
    let mut overruled = example;
    overruled.insert("warmup".to_owned(), toml::Value::Integer(bench.trajectory.len() as i64));
    let overruled = || bench.session(overruled.clone());
    for step in bench.trajectory.steps() {
        for branch in bench.until_decided() {
            let before = stored(&place, &session);
            let after = |other: Option<Session>| {
                let mut other = other?;
                let at = format!("{place}: step {} {branch}", step.index);
                other.restore(&before.reader(&Device::Cpu)).unwrap_or_else(|e| panic!("{at}: {e}"));
                run_pass(&bench.toy, Some(&mut other), &step, branch, 1)
                    .unwrap_or_else(|e| panic!("{at}: {e}"));
                Some(states(&stored(&place, &other)))
            };
            if branch == bench.decided()
                && let (Some(overruled), Some(never)) = (after(overruled()), after(never()))
            {
                same_states(&place, &step, &overruled, &never);
            }
            let ran = run_pass(&bench.toy, Some(&mut session), &step, branch, 1);
            ran.unwrap_or_else(|e| panic!("{place}: {e}"));
        }
        counted(&place, &session, &step);
    }
}

/// The state of strategies without that of the adapter: the part `state` of every slot.
fn states(snapshot: &Snapshot) -> Snapshot {
    let own = |path: &str| path.split('/').any(|part| part == "state");
    let tensors = snapshot.tensors().iter().filter(|(path, _)| own(path));
    let values = snapshot.values().iter().filter(|(path, _)| own(path));
    Snapshot::from_parts(
        tensors.map(|(path, tensor)| (path.clone(), tensor.clone())).collect(),
        values.map(|(path, value)| (path.clone(), value.clone())).collect(),
    )
}

fn same_states(place: &str, step: &Step, overruled: &Snapshot, never: &Snapshot) {
    let at = format!("{place}: step {}", step.index);
    assert!(
        overruled.values() == never.values(),
        "{at}: {:?}, of a pass that was decided to compute {:?}",
        overruled.values(),
        never.values()
    );
    for (path, tensor) in never.tensors() {
        let same = overruled.tensors().get(path).is_some_and(|own| super::same_bits(own, tensor));
        assert!(same, "{at}: `{path}` is not that of a pass that was decided to compute");
    }
}

/// Asserts that the bytes counted by the session are those of the tensors in its slots.
fn counted(place: &str, session: &Session, step: &Step) {
    let stored = stored(place, session);
    let bytes: usize = stored.tensors().values().map(Persist::bytes).sum();
    let got = session.slots().bytes();
    let at = format!("{place}: after step {}", step.index);
    assert!(got == bytes, "{at}: the slots hold tensors of {bytes} bytes, the state says {got}");
}

fn stored(place: &str, session: &Session) -> Snapshot {
    let store = || -> Result<Snapshot, SnapshotError> {
        let mut snapshot = Snapshot::default();
        session.save(&mut snapshot.writer())?;
        Ok(snapshot)
    };
    store().unwrap_or_else(|e| panic!("{place}: {e}"))
}
