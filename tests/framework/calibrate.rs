//! Recordings of dense runs: their content, merging and storing them, and that recording changes nothing.

use candle_core::Result;
use magcache_core::calibrate::{Distances, LastPrediction, Recorder, Recording, RecordingError, Response};

use crate::prelude::*;

fn record(toy: &Toy, steps: &Trajectory, seeds: impl IntoIterator<Item = u64>) -> Recording {
    let recorder = Recorder::new(toy.meta());
    for seed in seeds {
        run(toy, Some(&mut recorder.registry().session()), steps, seed).unwrap();
    }
    recorder.recording()
}

#[test]
fn watching_changes_no_bit() {
    let steps = guided(5);
    for toy in toys() {
        let recorder = Recorder::new(toy.meta());
        let watched = run(&toy, Some(&mut recorder.registry().session()), &steps, 1).unwrap();
        assert_same(&watched, &run(&toy, None, &steps, 1).unwrap(), &format!("{} blocks", toy.blocks()));
    }
}

#[test]
fn the_first_step_of_an_expert_has_no_predecessor() {
    let steps = guided(5).with_phases(phases(&[2, 3]));
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
fn an_expert_s_fit_is_that_of_its_own_rows() {
    let plain = guided(18);
    let pair = record(&Toy::image(4), &plain.clone().with_phases(phases(&[8, 10])), [1, 2]);
    let fits = pair.fits(Signal::ModulatedInput);
    assert_eq!(fits.iter().map(|fit| fit.expert).collect::<Vec<_>>(), [Some(0), Some(1)]);
    for fit in &fits {
        let own = |row: &&Distances| Some(row.expert.0) == fit.expert;
        let alone =
            Recording { distances: pair.distances.iter().filter(own).cloned().collect(), ..pair.clone() };
        let [whole] = &alone.fits(Signal::ModulatedInput)[..] else { panic!("one expert has one fit") };
        assert_eq!((whole.expert, &whole.coefficients), (None, &fit.coefficients));
        assert_eq!((whole.fitted_range, whole.residual), (fit.fitted_range, fit.residual));
    }
    assert!(fits[0].fitted_range != fits[1].fitted_range && fits[0].coefficients != fits[1].coefficients);

    // Four steps give three distances, too few for a polynomial of degree 4.
    let short = record(&Toy::image(4), &plain.with_phases(phases(&[4, 14])), [1]);
    let fits = short.fits(Signal::ModulatedInput);
    assert_eq!(fits.iter().map(|fit| fit.expert).collect::<Vec<_>>(), [Some(1)]);
    assert_eq!(short.experts().len(), 2);
}

/// Made-up responses to perturbations, one for every step of a run.
fn responses(seed: u64, steps: &Trajectory) -> Vec<Response> {
    let value = |step: usize, k: u64| 1.0 + ((seed * 7 + step as u64 * 3 + k) % 11) as f64 / 13.0;
    let of = |step: magcache_core::Step| Response {
        expert: step.expert,
        step: step.index,
        timestep: step.timestep,
        latent: value(step.index, 0),
        per_timestep: value(step.index, 5) / 1000.0,
    };
    steps.steps().map(of).collect()
}

#[test]
fn responses_join_to_those_of_all_runs_and_are_read_back() {
    let steps = guided(6).with_phases(phases(&[3, 3]));
    let toy = Toy::image(3);
    let of = |seeds: &[u64]| {
        let recorder = Recorder::new(toy.meta());
        for seed in seeds {
            run(&toy, Some(&mut recorder.registry().session()), &steps, *seed).unwrap();
            responses(*seed, &steps).into_iter().for_each(|response| recorder.add(response));
        }
        recorder.recording()
    };
    let whole = of(&[1, 2, 3, 4, 5]);
    let mut joined = of(&[1, 2]);
    joined.join(of(&[3])).unwrap();
    joined.join(of(&[4, 5])).unwrap();
    assert_eq!(joined.responses, whole.responses);
    assert_eq!(joined.sensitivities(), whole.sensitivities());
    let both = whole.sensitivities();
    assert_eq!((both.len(), both[0].expert, both[1].expert), (2, Some(0), Some(1)));
    let seeds = [1, 2, 3, 4, 5].map(|seed| responses(seed, &steps)[4].latent);
    assert!((both[1].latent[1] - seeds.iter().sum::<f64>() / 5.0).abs() < 1e-12);

    let mut tensors = whole.to_tensors().unwrap();
    assert_eq!(Recording::from_tensors(&tensors).unwrap(), whole);
    let short = tensors["responses.latent"].narrow(0, 0, 7).unwrap();
    unread(&tensors, "responses.latent", Some(short), ["\"responses\"", "[7]", "[30]"]);
    unread(&tensors, "responses.latent", None, ["responses.latent"]);
    // Files of earlier calibrations have no responses.
    tensors.retain(|name, _| !name.starts_with("responses."));
    assert!(Recording::from_tensors(&tensors).unwrap().responses.is_empty());
}

#[test]
fn the_last_prediction_is_that_of_the_conditional_branch() {
    let (toy, steps) = (Toy::image(3), guided(3));
    let (recorder, kept) = (Recorder::new(toy.meta()), LastPrediction::default());
    let hooks = rings(3, [(0..3, Arc::new(recorder.clone()))]).forward(Arc::new(kept.clone())).build();
    let ran = run(&toy, Some(&mut hooks.session()), &steps, 1).unwrap();
    assert_same(&ran, &run(&toy, None, &steps, 1).unwrap(), "watched");
    let cond = ran.iter().rfind(|ran| ran.branch == Branch::Cond).expect("it has one");
    assert!(same_bits(&kept.take().expect("a pass ran"), &cond.output) && kept.take().is_none());
    assert_eq!(recorder.recording().distances.len(), 2 * 2);
}

#[test]
fn recordings_join_to_that_of_all_runs() {
    let steps = guided(6);
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

    let error = joined.join(record(&toy, &guided(7), [1])).unwrap_err();
    assert!(matches!(error, RecordingError::Steps { got: 7, expected: 6 }), "{error}");
    let mut none = Recording::default();
    none.join(whole.clone()).unwrap();
    assert_eq!(none, whole);
}

#[test]
fn a_recording_is_read_back_as_it_was() -> Result<()> {
    let recording = record(&Toy::image(5), &guided(6), [1, 2]);
    let tensors = recording.to_tensors().unwrap();
    assert_eq!(Recording::from_tensors(&tensors).unwrap(), recording);
    let short = tensors["distances.residual"].narrow(0, 1, 3)?;
    unread(&tensors, "distances.residual", Some(short), ["[3]", "[20]"]);
    unread(&tensors, "distances.residual", None, ["distances.residual"]);
    let flat = tensors["magnitudes.cond"].flatten_all()?;
    unread(&tensors, "magnitudes.cond", Some(flat), ["magnitudes.cond", "[36]"]);
    Ok(())
}

/// Keeps the input and the output of the blocks.
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
    let (toy, steps) = (Toy::image(3), alone(4));
    let (recorder, keep) = (Recorder::new(toy.meta()), Keep::default());
    let outer: Arc<dyn BlockHook> = Arc::new(keep.clone());
    let hooks = rings(3, [(0..3, outer), (0..3, Arc::new(recorder.clone()))]).build();
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
