//! Every way in which a profile can fail to match the run.

use magcache_core::{Expert, Phase};

use super::*;

const BOTH: [Branch; 2] = [Branch::Cond, Branch::Uncond];

/// Ten steps, the first four run by the first expert, on the schedule of [`profile`].
fn run() -> Trajectory {
    let phases = vec![Phase { expert: Expert(0), steps: 0..4 }, Phase { expert: Expert(1), steps: 4..10 }];
    Trajectory {
        flow_shift: Some(3.0),
        boundary_ratio: Some(0.8),
        ..Trajectory::plain(10, &BOTH).with_phases(phases)
    }
}

/// A curve, a fit and sensitivities of a model called `toy`, measured under `facts`.
fn profile(facts: &str) -> Profile {
    let values = ["1.0"; 10].join(", ");
    let text = format!(
        "name = \"own\"\nmodel = \"toy\"\n\
         [[curve]]\nsteps = 10\nflow_shift = 3.0\nboundary_ratio = 0.8\n\
         ratios = {{ cond = [{values}], uncond = [{values}] }}\n[curve.source.measured]\n{facts}\n\
         [[fit]]\nsignal = \"modulated-input\"\ncoefficients = [1.0]\nwarmup = 1\nlast_steps = 1\n\
         [fit.source.measured]\n{facts}\n\
         [[sensitivity]]\ntimesteps = [9.0]\nlatent = [1.0]\ntimestep = [1.0]\n[sensitivity.source.measured]\n{facts}"
    );
    Profile::parse(&text, "own.toml").expect("is sound")
}

const FACTS: &str = "checkpoint = \"abc\"\ndtype = \"auto\"\ndevice = \"cpu x86_64\"\nattention = \"exact\"\n\
    steps = 10\nsampler = \"unipc\"\nflow_shift = 3.0\nboundary_ratio = 0.8\nguidance = 5.0\nwidth = 64\n\
    height = 48\nframes = 5\nimage = false";

fn facts() -> Facts {
    toml::from_str(FACTS)
        .map(|mut facts: Facts| {
            facts.remove("checkpoint");
            facts
        })
        .expect("is a table")
}

struct Asked {
    profile: Profile,
    model: ModelMeta,
    run: Trajectory,
    facts: Facts,
    checkpoint: WeightsHash,
}

impl Default for Asked {
    fn default() -> Self {
        let checkpoint = WeightsHash::Of("abc".to_owned());
        Self {
            profile: profile(FACTS),
            model: ModelMeta::of("toy", "tests").meta().with_blocks(&[4]),
            run: run(),
            facts: facts(),
            checkpoint,
        }
    }
}

impl Asked {
    fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.facts.insert(key.to_owned(), value.into());
        self
    }

    fn of(&self, name: &str, part: Part) -> (Verdict, String) {
        let Self { profile, model, run, facts, checkpoint } = self;
        let known = Known { model: Some(model), run, facts: facts.clone(), checkpoint: checkpoint.clone() };
        let reasons = reasons((name, profile), (part, false), None, &known);
        let judged = Judged { profile: name.to_owned(), strategy: "x".to_owned(), reasons };
        (judged.verdict(), judged.texts().join("; "))
    }

    #[track_caller]
    fn gives(&self, part: Part, verdict: Verdict, text: &str) {
        assert_eq!(self.of("own.toml", part), (verdict, text.to_owned()));
    }
}

use Part::{Curves, Fits, Sensitivities};
use Verdict::{Exact, Refused, Usable};

#[test]
fn equal_conditions_are_exact() {
    for part in [Curves, Fits, Sensitivities] {
        Asked::default().gives(part, Exact, "");
        Asked::default().set("device", "cpu aarch64").gives(part, Exact, "");
    }
}

#[test]
fn every_condition_counts_with_both_values() {
    let cases: [(&str, toml::Value, &str); 10] = [
        ("dtype", "f16".into(), "dtype auto, the run has f16"),
        ("device", "cuda".into(), "device cpu x86_64, the run has cuda"),
        ("attention", "exact in f16".into(), "attention exact, the run has exact in f16"),
        ("steps", 12.into(), "steps 10, the run has 12"),
        ("sampler", "euler".into(), "sampler unipc, the run has euler"),
        ("guidance", 1.0.into(), "guidance 5.0, the run has 1.0"),
        ("guidance_2", 4.0.into(), "guidance_2 none, the run has 4.0"),
        ("width", 32.into(), "width 64, the run has 32"),
        ("frames", 1.into(), "frames 5, the run has 1"),
        ("image", true.into(), "image false, the run has true"),
    ];
    for (key, value, text) in cases {
        for part in [Curves, Fits, Sensitivities] {
            Asked::default().set(key, value.clone()).gives(part, Usable, text);
        }
    }
    // Every option that a calibration records.
    for name in SamplingOption::ALL.iter().flat_map(|option| option.conditions()) {
        let (verdict, text) = Asked::default().set(name, "other").of("measured", Curves);
        assert!(verdict == Usable && text.contains(name), "{name}: {text}");
    }
}

#[test]
fn other_weights_are_refused_and_unread_ones_are_named() {
    let other = Asked { checkpoint: WeightsHash::Of("abd".to_owned()), ..Asked::default() };
    other.gives(Fits, Refused, "checkpoint abc, the run has abd");
    let unread = Asked { checkpoint: WeightsHash::Unread(3 << 30), ..Asked::default() };
    unread.gives(Curves, Usable, "checkpoint not compared, it has 3.00 GiB: --check-checkpoint reads it");
    Asked { checkpoint: WeightsHash::None, ..Asked::default() }.gives(Curves, Exact, "");
}

#[test]
fn another_model_is_refused() {
    let other = Asked { model: ModelMeta::of("other", "tests").meta().with_blocks(&[4]), ..Asked::default() };
    other.gives(Sensitivities, Refused, "it is of toy, the run's model is other of 4 blocks");
    let mut silent = Asked::default();
    silent.profile.model = None;
    silent.gives(Curves, Usable, "it does not say which model it is of");
    // A built-in profile of a model that this program does not have.
    assert_eq!(silent.of("framepack", Curves).0, Refused);
}

#[test]
fn a_moved_boundary_is_refused_for_a_measured_curve_and_told_of_a_published_one() {
    let moved = |facts: &str| {
        let run = Trajectory { flow_shift: Some(9.0), ..run() };
        Asked { profile: profile(facts), run, ..Asked::default() }.set("flow_shift", 9.0)
    };
    let there = magcache_core::run::steps_above(0.8, 3.0, 10);
    assert!(there != 4);
    let boundary = format!("its first expert would run {there} of 10 steps, the run's 4");
    moved(FACTS).gives(Curves, Refused, &format!("{boundary}; flow_shift 3.0, the run has 9.0"));
    moved(FACTS).gives(Fits, Usable, "flow_shift 3.0, the run has 9.0");
    let silent = "it does not say its checkpoint, guidance, width, height";
    moved("").gives(Curves, Usable, &format!("{boundary}; flow_shift 3.0, the run has 9.0; {silent}"));
}

#[test]
fn a_branch_without_values_is_refused_for_a_measured_curve() {
    let mut one = Asked::default();
    one.profile.curves[0].ratios.remove("uncond");
    one.gives(Curves, Refused, "it has the branches cond, the run has uncond too");
    one.gives(Fits, Exact, "");
    one.run.branches = vec![Branch::Cond];
    one.gives(Curves, Exact, "");
}

#[test]
fn a_verdict_is_one_line() {
    let told = |reasons: Vec<Reason>| {
        Judged { profile: "p".to_owned(), strategy: "magcache".to_owned(), reasons }.to_string()
    };
    assert_eq!(told(Vec::new()), "profile p for magcache: exact");
    let (usable, refused) = (Reason::usable("a".to_owned()), Reason::refused("b".to_owned()));
    assert_eq!(told(vec![usable.clone()]), "profile p for magcache: usable; a");
    assert_eq!(told(vec![refused, usable]), "profile p is not for this run of magcache: b; a");
}
