//! One hook more, outside or inside the caches of a plan.

use magcache_core::{
    calibrate::Recorder,
    hint,
    log::Record,
    snapshot::{Snapshot, SnapshotError},
};

use crate::prelude::*;

const BLOCKS: usize = 5;

/// Nested caches, and a cache of whole forwards around others.
const PLANS: [&str; 3] = [
    "[[cache]]\nstrategy = \"dbcache\"\nfront = 1\nback = 1\nthreshold = 0.5\nwarmup = 2\n[[cache]]\nstrategy = \"schedule\"\nat = \"2..4\"\nskip = [2, 5]\n",
    "[[cache]]\nstrategy = \"easycache\"\nthreshold = 0.3\nwarmup = 2\n[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.3\n",
    "",
];

/// The ids and places of all hooks.
fn placed(hooks: &HookRegistry) -> Vec<(HookId, Range<usize>)> {
    hooks.all().map(|ring| (ring.id, ring.at.clone())).collect()
}

/// The number of blocks in `0..5`, as a witness tells them.
fn blocks(line: &str, what: &str) -> Option<usize> {
    let range = line.strip_prefix(what)?.split(' ').next()?;
    let (from, to) = range.split_once("..")?;
    Some(to.parse::<usize>().ok()? - from.parse::<usize>().ok()?)
}

#[test]
fn one_hook_more_changes_nothing_and_sees_all_or_what_really_runs() {
    let (toy, run_of) = (Toy::image(BLOCKS), guided(12));
    for plan in PLANS {
        let hooks = build(plan, toy.meta(), &run_of).unwrap().registry;
        let mut plain = hooks.session();
        let ran = run(&toy, Some(&mut plain), &run_of, 1).unwrap();
        let (said_outside, said_inside) = (Arc::default(), Arc::default());
        let outer = hooks.outside(Arc::new(Witness("", Arc::clone(&said_outside))));
        let inner = hooks.inside(Arc::new(Witness("", Arc::clone(&said_inside))));
        for observed in [&outer, &inner] {
            let mut session = observed.session();
            assert_same(&run(&toy, Some(&mut session), &run_of, 1).unwrap(), &ran, plan);
            assert_eq!(session.log(), plain.log(), "{plan}");
            let (mut now, before) = (placed(observed), placed(&hooks));
            let next = HookId(u16::try_from(before.len()).unwrap());
            let own = now.iter().position(|(id, _)| *id == next).expect("the next id");
            assert_eq!(now.remove(own).1, 0..BLOCKS);
            assert_eq!(now, before, "the others keep their ids");
        }
        let told = said(&said_outside);
        let of = |what: &str| told.iter().filter(|line| line.starts_with(what)).count();
        assert_eq!(of(" in 0..5") + of(" skipped 0..5"), run_of.passes(), "{plan}\n{told:?}");
        assert_eq!(told.len(), 2 * of(" in 0..5") + of(" skipped 0..5"), "{plan}\n{told:?}");
        let told = said(&said_inside);
        let inside: usize = told.iter().filter_map(|line| blocks(line, " in ")).sum();
        let really: usize = ran.iter().map(|ran| ran.blocks.len()).sum();
        assert_eq!(inside, really, "{plan}\n{told:?}");
        let skipped = plan.is_empty() || inside < run_of.passes() * BLOCKS;
        assert!(skipped && (!plan.contains("easycache") || of(" skipped 0..5") == 0), "{plan}");
    }
}

fn stored(session: &Session) -> Result<Snapshot, SnapshotError> {
    let mut snapshot = Snapshot::default();
    session.save(&mut snapshot.writer()).map(|()| snapshot)
}

#[test]
fn a_stored_session_goes_on_with_one_hook_more_or_less() {
    let (toy, steps) = (Toy::image(BLOCKS), guided(12));
    for plan in PLANS {
        let hooks = build(plan, toy.meta(), &steps).unwrap().registry;
        let witness = || Arc::new(Witness("", Arc::default()));
        let (outer, inner) = (hooks.outside(witness()), hooks.inside(witness()));
        let mut whole = hooks.session();
        let ran = run(&toy, Some(&mut whole), &steps, 1).unwrap();
        for (from, to) in [(&hooks, &outer), (&hooks, &inner), (&outer, &hooks), (&inner, &outer)] {
            let mut first = from.session();
            let pass = |session: &mut Session, step: usize, branch| {
                run_pass(&toy, Some(session), &steps.step(step), branch, 1).unwrap()
            };
            let before = (0..6).flat_map(|step| BOTH.map(|branch| (step, branch)));
            before.for_each(|(step, branch)| drop(pass(&mut first, step, branch)));
            let mut rest = to.session();
            rest.restore(&stored(&first).unwrap().reader(&Device::Cpu)).unwrap();
            let after = (6..12).flat_map(|step| BOTH.map(|branch| (step, branch)));
            let after: Vec<Ran> = after.map(|(step, branch)| pass(&mut rest, step, branch)).collect();
            assert_same(&after, &ran[12..], plan);
            assert_eq!(rest.log(), whole.log(), "{plan}");
        }
    }
}

/// A recorder keeps tensors in slots of its own, also around caches, whose slots stay theirs.
#[test]
fn a_hook_with_slots_has_its_own() {
    let (toy, steps) = (Toy::image(BLOCKS), guided(12));
    let plan = "[[cache]]\nstrategy = \"schedule\"\nskip = [3, 5, 6, 8]";
    let hooks = build(plan, toy.meta(), &steps).unwrap().registry;
    let mut plain = hooks.session();
    let ran = run(&toy, Some(&mut plain), &steps, 1).unwrap();
    let recorder = Recorder::new(toy.meta());
    for observed in [hooks.outside(Arc::new(recorder.clone())), hooks.inside(Arc::new(recorder.clone()))] {
        let mut session = observed.session();
        assert_same(&run(&toy, Some(&mut session), &steps, 1).unwrap(), &ran, plan);
        let decisions = |session: &Session| {
            let own = session.log().records().iter();
            // What is held counts the recorder's tensors too.
            own.map(|record| Record { bytes: 0, ..record.clone() }).collect::<Vec<_>>()
        };
        assert_eq!(decisions(&session), decisions(&plain));
        assert!(session.slots().keys().any(|key| key.hook == HookId(1)));
        // What it keeps cannot be stored, and that is said.
        let error = stored(&session).unwrap_err();
        assert!(
            matches!(&error, SnapshotError::Refused { hook: 1, name } if name.contains("Recorder")),
            "{error}"
        );
        assert_eq!(hint::of(&error), None);
    }
    // All passes of the first run, and of the second those that really ran.
    assert_eq!(recorder.recording().distances.len(), 2 * 11 + 2 * (11 - 4));
}
