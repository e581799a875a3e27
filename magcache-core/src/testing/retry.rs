//! Checks that a step can be run again as if nothing had happened.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Bench, Fault, Ran, Toy, expect::transcript, run, run_pass, same_bits};
use crate::{
    Group, HookRegistry, Session, Step, Trajectory,
    group::{ControlPlane, GroupError, Lane, Message},
    log::Record,
};

/// Rule 48: A step that was cancelled between its branches, or in which a block or a metric failed, gives the
/// outputs and decisions of an uninterrupted run when it is run again from its beginning; and so do all later
/// steps.
///
/// # Panics
///
/// If not, with the step and what was cut in it.
pub fn check_retry(bench: &Bench<'_>) {
    let place = bench.place("48: a step that is run again is the same step");
    let Some(session) = bench.session(bench.table(bench.info.example)) else { return };
    for trajectory in [bench.trajectory.clone(), bench.two_experts()] {
        retries(&place, &bench.toy, &trajectory, session.registry());
    }
}

/// Runs every step of a trajectory again after each possible cut, in sessions of `hooks`.
///
/// # Panics
///
/// As [`check_retry`], with `place` prepended.
pub fn retries(place: &str, toy: &Toy, trajectory: &Trajectory, hooks: &Arc<HookRegistry>) {
    let never = Arc::new(AtomicUsize::new(usize::MAX));
    let mut whole = hooks.session().in_group(failing(&never));
    let expected = run(toy, Some(&mut whole), trajectory, 1);
    let expected = expected.unwrap_or_else(|e| panic!("{place}: {e}"));
    for step in trajectory.steps() {
        for fault in Cut::all(toy, trajectory.branches_at(&step).len()) {
            let at = format!("{place}: step {}, {fault:?}", step.index);
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let mut session = hooks.session().in_group(failing(&left));
            let mut ran = Vec::new();
            for now in trajectory.steps() {
                if now == step {
                    fault.happens(toy, &mut session, trajectory, &now, &left);
                }
                for branch in trajectory.branches_at(&now) {
                    let pass = run_pass(toy, Some(&mut session), &now, *branch, 1);
                    ran.push(pass.unwrap_or_else(|e| panic!("{at}: {e}")));
                }
            }
            same_runs(&at, &ran, &expected);
            let (got, want) = (session.log().records(), whole.log().records());
            assert!(
                decisions(got) == decisions(want),
                "{at}: the log is\n{}\nwithout a break\n{}",
                transcript(session.log()).join("\n"),
                transcript(whole.log()).join("\n")
            );
        }
    }
}

/// How a step is cut short.
#[derive(Debug)]
enum Cut {
    /// Nothing fails: this many branches run, and then the step begins again.
    After(usize),
    /// A block fails on a branch, both given by index.
    Block(usize, usize),
    /// So often in this step another rank answers, then it fails.
    Answer(usize),
}

impl Cut {
    fn all(toy: &Toy, branches: usize) -> Vec<Self> {
        let blocks = [0, toy.blocks() / 2, toy.blocks().saturating_sub(1)];
        let faults = (0..branches).flat_map(|b| blocks.map(|block| Self::Block(b, block)));
        (1..=branches).map(Self::After).chain(faults).chain((0..6 * branches).map(Self::Answer)).collect()
    }

    fn happens(
        &self,
        toy: &Toy,
        session: &mut Session,
        trajectory: &Trajectory,
        step: &Step,
        left: &AtomicUsize,
    ) {
        let run = match self {
            Self::After(run) => *run,
            Self::Block(branch, _) => *branch + 1,
            Self::Answer(answers) => {
                left.store(*answers, Ordering::Relaxed);
                usize::MAX
            }
        };
        for (i, branch) in trajectory.branches_at(step).iter().enumerate().take(run) {
            if let Self::Block(at, block) = self {
                toy.set_fault((*at == i).then_some((*block, Fault::Error)));
            }
            let failed = run_pass(toy, Some(&mut *session), step, *branch, 1).is_err();
            toy.set_fault(None);
            if failed {
                break;
            }
        }
        left.store(usize::MAX, Ordering::Relaxed);
    }
}

/// A group of two ranks, of which the other one always says what this one does, until it has answered `left`
/// times.
fn failing(left: &Arc<AtomicUsize>) -> Group {
    let echo = Echo { left: Arc::clone(left), said: Mutex::default() };
    Group::world(Arc::new(echo), Duration::ZERO)
}

#[derive(Debug)]
struct Echo {
    left: Arc<AtomicUsize>,
    said: Mutex<Option<Message>>,
}

impl ControlPlane for Echo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        2
    }

    fn send(&self, _: usize, message: Message) -> Result<(), GroupError> {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
        Ok(())
    }

    fn receive(&self, from: usize, _: Lane, _: Duration) -> Result<Message, GroupError> {
        let more = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).take();
        said.filter(|_| more.is_ok()).ok_or(GroupError::Ended { rank: from, about: String::new() })
    }

    fn stop(&self, _: &str) {}
}

fn same_runs(at: &str, got: &[Ran], expected: &[Ran]) {
    for (a, b) in got.iter().zip(expected) {
        let here = format!("{at}: step {} {}", a.step.index, a.branch);
        assert!(same_bits(&a.output, &b.output), "{here} differs from an unbroken run");
        let same = decisions(&a.records) == decisions(&b.records);
        assert!(same, "{here} decided {:?}, without a break {:?}", a.records, b.records);
    }
}

/// The records without the bytes held: slots filled by a failed pass are still held when it is run again.
fn decisions(records: &[Record]) -> Vec<Record> {
    records.iter().map(|record| Record { bytes: 0, ..record.clone() }).collect()
}
