//! Recordings of dense runs: what they hold, that they join, that they can be stored, and that watching changes nothing.

use std::sync::{Arc, Mutex};

use candle_core::{Result, Tensor};
use magcache_core::{
    BlockHook, Branch, Cx, Expert, HookRegistry, Next, Output, Phase, Signal, Streams, Trajectory,
    calibrate::{Recorder, Recording, RecordingError},
    metrics,
    testing::{Toy, run, same_bits, toys},
};

const BOTH: [Branch; 2] = [Branch::Cond, Branch::Uncond];

fn record(toy: &Toy, steps: &Trajectory, seeds: impl IntoIterator<Item = u64>) -> Recording {
    let recorder = Recorder::new(toy.meta());
    for seed in seeds {
        run(toy, Some(&mut recorder.registry().session()), steps, seed).unwrap();
    }
    recorder.recording()
}

#[test]
fn watching_changes_no_bit() {
    let steps = Trajectory::plain(5, &BOTH);
    for toy in toys() {
        let recorder = Recorder::new(toy.meta());
        let watched = run(&toy, Some(&mut recorder.registry().session()), &steps, 1).unwrap();
        for (a, b) in watched.iter().zip(run(&toy, None, &steps, 1).unwrap()) {
            assert!(same_bits(&a.output, &b.output), "{} blocks", toy.blocks());
        }
    }
}

#[test]
fn the_first_step_of_an_expert_has_no_predecessor() {
    let phases = vec![Phase { expert: Expert(0), steps: 0..2 }, Phase { expert: Expert(1), steps: 2..5 }];
    let steps = Trajectory::plain(5, &BOTH).with_phases(phases);
    let recording = record(&Toy::image(4), &steps, [1, 2]);
    let curve = recording.curve();
    for values in curve.ratios.values() {
        assert_eq!((values.len(), values[0], values[2]), (5, 1.0, 1.0));
        assert!([1, 3, 4].iter().all(|step| values[*step] != 1.0), "{values:?}");
    }
    assert!(curve.std.values().all(|values| values[2] == 0.0));
    let steps: Vec<usize> = recording.distances.iter().map(|row| row.step).collect();
    assert!(!steps.contains(&0) && !steps.contains(&2) && steps.len() == 2 * 2 * 3, "{steps:?}");
    assert!(recording.fit(Signal::ModulatedInput, Some(Expert(7))).is_none());
}

#[test]
fn recordings_join_to_that_of_all_runs() {
    let steps = Trajectory::plain(6, &BOTH);
    let toy = Toy::image(5);
    let whole = record(&toy, &steps, 1..=4);
    let mut joined = record(&toy, &steps, [1]);
    joined.join(record(&toy, &steps, [2, 3])).unwrap();
    joined.join(record(&toy, &steps, [4])).unwrap();
    assert_eq!(joined.distances, whole.distances);
    let (a, b) = (joined.curve(), whole.curve());
    for (a, b) in [(a.ratios, b.ratios), (a.std, b.std), (a.cosine_distance, b.cosine_distance)] {
        for (a, b) in a.values().flatten().zip(b.values().flatten()) {
            assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()), "{a} {b}");
        }
    }
    let (a, b) = (joined.fit(Signal::ModulatedInput, None), whole.fit(Signal::ModulatedInput, None));
    assert_eq!(a.expect("24 rows").coefficients, b.expect("24 rows").coefficients);

    let error = joined.join(record(&toy, &Trajectory::plain(7, &BOTH), [1])).unwrap_err();
    assert!(matches!(error, RecordingError::Steps { got: 7, expected: 6 }), "{error}");
    let mut none = Recording::default();
    none.join(whole.clone()).unwrap();
    assert_eq!(none, whole);
}

#[test]
fn a_recording_is_read_back_as_it_was() -> Result<()> {
    let recording = record(&Toy::image(5), &Trajectory::plain(6, &BOTH), [1, 2]);
    let mut tensors = recording.to_tensors().unwrap();
    assert_eq!(Recording::from_tensors(&tensors).unwrap(), recording);

    let short = tensors["distances.residual"].narrow(0, 1, 3)?;
    let whole = tensors.insert("distances.residual".to_owned(), short);
    let error = Recording::from_tensors(&tensors).unwrap_err().to_string();
    assert!(error.contains("[3]") && error.contains("[20]"), "{error}");
    tensors.remove("distances.residual");
    let error = Recording::from_tensors(&tensors).unwrap_err().to_string();
    assert!(error.contains("distances.residual"), "{error}");
    tensors.insert("distances.residual".to_owned(), whole.expect("was there"));
    let flat = tensors["magnitudes.cond"].flatten_all()?;
    tensors.insert("magnitudes.cond".to_owned(), flat);
    let error = Recording::from_tensors(&tensors).unwrap_err().to_string();
    assert!(error.contains("magnitudes.cond") && error.contains("[36]"), "{error}");
    Ok(())
}

/// Keeps what enters the blocks and what leaves them.
#[derive(Clone, Debug, Default)]
struct Keep(Arc<Mutex<Vec<[Tensor; 2]>>>);

impl BlockHook for Keep {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let entered = x.image()?;
        let out = next.run(cx, x)?;
        self.0.lock().unwrap().push([entered, out.streams.image()?]);
        Ok(out)
    }
}

#[test]
fn distances_are_those_of_the_tensors() {
    let (toy, steps) = (Toy::image(3), Trajectory::plain(4, &[Branch::Cond]));
    let (recorder, keep) = (Recorder::new(toy.meta()), Keep::default());
    let hooks = HookRegistry::builder(3).ring(0..3, Arc::new(keep.clone())).unwrap();
    let hooks = hooks.ring(0..3, Arc::new(recorder.clone())).unwrap().build();
    run(&toy, Some(&mut hooks.session()), &steps, 1).unwrap();
    let (kept, recording) = (keep.0.lock().unwrap(), recorder.recording());
    assert_eq!((kept.len(), recording.distances.len()), (4, 3));
    for (row, pair) in recording.distances.iter().zip(kept.windows(2)) {
        let [before, now] = [&pair[0], &pair[1]];
        let residual = |[entered, left]: &[Tensor; 2]| (left - entered).unwrap();
        assert_eq!(row.hidden_states, metrics::relative_l1(&now[1], &before[1]).unwrap());
        assert_eq!(row.residual, metrics::relative_l1(&residual(now), &residual(before)).unwrap());
        let magnitudes = metrics::magnitude_ratio(&residual(now), &residual(before)).unwrap();
        assert_eq!(recording.curve().ratios["cond"][row.step], magnitudes.ratio);
    }
}
