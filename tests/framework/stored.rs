//! A run that is stored and restored continues to the bit: caches whose state has many parts, and whole
//! generations.

use magcache_core::{
    calibrate::Recorder,
    snapshot::{Snapshot, SnapshotError},
    state::SlotKey,
    testing::resumes,
};
use magcache_models::{
    image::Picture,
    pipeline::{self, Generation, LoadOptions, Offload, Pipeline, Request},
    sampler::SamplerKind,
};

use crate::prelude::*;

/// Tables that together use every part of a state and of a forecast, each with its topic.
const TABLES: [&str; 14] = [
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.3\nema = 0.6\ndownsample = 2",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.3\nmetric = \"hidden_rel_l2\"\nbranches = \"cond-decides\"",
    "[[cache]]\nstrategy = \"dbcache\"\nfront = 1\nback = 1\nthreshold = 0.3\nwarmup = 2\nmax_total_skips = 4",
    "[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"\nthreshold = 0.3\nsignal = \"modulated-input\"\nmax_skips = 3",
    "[[cache]]\nstrategy = \"easycache\"\nthreshold = 0.2\nbranches = \"own\"",
    "[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 4\nstart = 0.2\nhigh_from = 0.4",
    "[[cache]]\nstrategy = \"schedule\"\nskip = [4, 6, 7, 9, 10]\nforecast = { type = \"taylor\", order = 3 }",
    "[[cache]]\nstrategy = \"schedule\"\nskip = [3, 5, 6, 9]\nforecast = { type = \"taylor\", order = 2, dialect = \"diffusers\", of = \"output\" }",
    "[[cache]]\nstrategy = \"schedule\"\nskip = [3, 5, 6, 9]\nforecast = { type = \"output\" }\n[residuals]\ndtype = \"bf16\"",
    "[[cache]]\nstrategy = \"schedule\"\nskip = [1, 3, 4, 6, 7]\nforecast = { type = \"taylor\" }\n[residuals]\nbudget = \"600\"",
    "[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 3\nstart = 1\n[[cache]]\nstrategy = \"magcache\"\nthreshold = 0.2\nratios = [1.0, 0.99, 0.98, 0.97]",
    "[[cache]]\nstrategy = \"schedule\"\nskip = [2, 3, 4, 6, 7, 9]\n[audit]\nfraction = 0.5\ndrift_budget = 0.05\non_drift = \"tighten\"",
    "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\nbranches = \"cond-decides\"\n[audit]\nfraction = 0.6\ndrift_budget = 0.3\non_drift = \"disable\"",
    "[[cache]]\nstrategy = \"any-veto\"\nmembers = [{ strategy = \"fbcache\", threshold = 0.4, ema = 0.5 }, { strategy = \"teacache\", threshold = 0.4, policy = \"linear\", signal = \"modulated-input\" }]",
];

#[test]
fn every_part_of_a_state_is_put_back() {
    for toy in [Toy::image(4), dual(2, 3)] {
        for table in TABLES {
            let whole = guided(12);
            for run in [whole.clone(), whole.with_phases(phases(&[5, 7]))] {
                let place = format!("{table}\non {} blocks", toy.blocks());
                resumes(&place, &run, || Some(session(table, toy.meta(), &run)), &|session, step, branch| {
                    run_pass(&toy, Some(session), step, branch, 1)
                });
            }
        }
    }
}

#[test]
fn the_tables_above_skip_and_evict() {
    let toy = Toy::image(4);
    let steps = guided(12);
    for table in TABLES {
        let mut session = session(table, toy.meta(), &steps);
        run(&toy, Some(&mut session), &steps, 1).unwrap();
        assert!(session.log().records().iter().any(|r| r.reused), "{table} skips nothing");
        assert_eq!(session.slots().evicted() > 0, table.contains("\nbudget"), "{table}");
    }
}

#[test]
fn a_shape_that_changes_after_a_break_is_still_seen() {
    let steps = guided(8);
    let (toy, wider) = (Toy::image(4), Toy::image(4).with_tokens(9));
    let mut first = session("[[cache]]\nstrategy = \"schedule\"\nskip = [4, 5, 6]", toy.meta(), &steps);
    for index in 0..4 {
        run_pass(&toy, Some(&mut first), &steps.step(index), Branch::Cond, 1).unwrap();
    }
    let mut rest = first.registry().session();
    rest.restore(&stored(&first).unwrap().reader(&Device::Cpu)).unwrap();
    let ran = run_pass(&wider, Some(&mut rest), &steps.step(4), Branch::Cond, 1).unwrap();
    assert_eq!(ran.records[0].why, Why::FailsafeShape);
    assert_eq!(rest.log().failsafes(), 1);
}

fn stored(session: &Session) -> Result<Snapshot, SnapshotError> {
    let mut snapshot = Snapshot::default();
    session.save(&mut snapshot.writer()).map(|()| snapshot)
}

/// A hook that keeps something in a slot and does not say how to store it.
#[derive(Debug)]
struct Keeps;

impl BlockHook for Keeps {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> candle_core::Result<Output> {
        let (expert, branch, eval) = (cx.step.expert, cx.branch, cx.step.eval);
        let key = SlotKey { hook: HookId(0), blocks: next.blocks(), expert, branch, eval };
        cx.slots.put(key, 1u8, 0);
        next.run(cx, x)
    }
}

#[test]
fn what_a_hook_cannot_store_is_not_lost_in_silence() {
    let toy = Toy::image(2);
    let steps = guided(3);
    let own = rings(2, [(0..2, Arc::new(Keeps))]).build();
    for (registry, name) in [(own, "Keeps"), (Recorder::new(toy.meta()).registry(), "Recorder")] {
        let mut session = registry.session();
        assert!(stored(&session).is_ok(), "nothing is kept yet");
        run(&toy, Some(&mut session), &steps, 1).unwrap();
        let error = stored(&session).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Refused { .. }) && error.to_string().contains(name),
            "{error}"
        );
    }
}

#[test]
fn the_state_of_other_hooks_is_refused_and_changes_nothing() {
    let toy = Toy::image(4);
    let steps = guided(6);
    let mut fb = session(TABLES[0], toy.meta(), &steps);
    run(&toy, Some(&mut fb), &steps, 1).unwrap();
    let snapshot = stored(&fb).unwrap();
    let mut tea = session(TABLES[3], toy.meta(), &steps);
    let error = tea.restore(&snapshot.reader(&Device::Cpu)).unwrap_err();
    assert!(error.to_string().contains("\"front-residual\", expected modulated-input"), "{error}");
    assert_eq!(tea.log().records().len(), 0);
    let mut none = HookRegistry::builder(4).build().session();
    let error = none.restore(&snapshot.reader(&Device::Cpu)).unwrap_err();
    assert!(matches!(error, SnapshotError::NoHook { .. }), "{error}");
}

/// An embedded model, a request and its caches.
struct Whole {
    pipeline: Box<dyn Pipeline>,
    request: Request,
    caches: &'static str,
}

impl Whole {
    fn new(model: &str, offload: Offload, change: fn(Request) -> Request, caches: &'static str) -> Self {
        magcache_models::link();
        let all = pipeline::embedded();
        let folder = (all.iter().find(|e| e.name == model).unwrap().folder)();
        let options = LoadOptions { offload, ..LoadOptions::default() };
        let pipeline = pipeline::open(folder, options).unwrap();
        let image = pipeline.default_image().unwrap().map(Arc::new);
        let base = Request { frames: 1, size: [32, 32], image, ..pipeline.defaults().request.clone() };
        let request = pipeline.resolved(&change(base));
        Self { pipeline, request, caches }
    }

    fn registry(&self) -> Arc<HookRegistry> {
        let run = self.pipeline.trajectory(&self.request).unwrap();
        build(self.caches, self.pipeline.meta(), &run).unwrap().registry
    }

    /// Stores and restores after every step: latents and decisions are those of the uninterrupted run.
    fn check(&self) {
        let name = format!("{}: {}", self.pipeline.meta().name, self.caches);
        let denoiser = self.pipeline.denoiser(&self.request, &|_| {}, &mut Vec::new()).unwrap();
        let run = || self.pipeline.trajectory(&self.request).unwrap();
        let sampler = || self.pipeline.sampler(&self.request).unwrap();
        let (noise, registry) = (self.pipeline.noise(&self.request).unwrap(), self.registry());
        let mut whole = Generation::new(denoiser.clone(), run(), sampler(), &noise, &registry).unwrap();
        let mut stored = Vec::new();
        let mut store = |generation: &Generation| {
            let mut snapshot = Snapshot::default();
            generation.save(&mut snapshot.writer()).unwrap();
            let copied = snapshot.tensors().iter().map(|(k, t)| (k.clone(), t.force_contiguous().unwrap()));
            stored.push(Snapshot::from_parts(copied.collect(), snapshot.values().clone()));
        };
        store(&whole);
        whole.run(&|| false, &mut store).unwrap();
        let log = whole.session().map(|s| s.log().clone());
        assert_eq!(log.is_some(), !self.caches.is_empty());
        assert!(log.iter().all(|log| log.records().iter().any(|r| r.reused)), "{name} skips nothing");
        for (k, snapshot) in stored.iter().enumerate() {
            let from = snapshot.reader(&Device::Cpu);
            let network = (k + 1 < stored.len()).then(|| denoiser.clone());
            let mut rest = Generation::resume(network, run(), sampler(), &registry, &from).unwrap();
            assert_eq!(rest.next(), run().first + k);
            rest.run(&|| false, &mut |_| {}).unwrap();
            assert!(same_bits(rest.latents(), whole.latents()), "{name}: other latents from step {k} on");
            assert_eq!(rest.session().map(|s| s.log().clone()), log, "{name}: from step {k} on");
            let passes = |g: &Generation| g.times().iter().map(|t| (t.step, t.branch)).collect::<Vec<_>>();
            assert_eq!(passes(&rest), passes(&whole));
            let before = |g: &Generation| {
                g.times().iter().filter(|t| t.step < run().first + k).copied().collect::<Vec<_>>()
            };
            assert_eq!(before(&rest), before(&whole), "times before the break stay");
        }
    }
}

const TAYLOR: &str = "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.4\nwarmup = 2\nforecast = { type = \"taylor\" }\n[residuals]\ndtype = \"bf16\"";
const MODULES: &str = "[[cache]]\nstrategy = \"schedule\"\nat = \"attn1\"\nskip = [2, 4, 5]";
const FORWARD: &str = "[[cache]]\nstrategy = \"easycache\"\nthreshold = 0.5\nwarmup = 2";

#[test]
fn text_to_video_with_every_sampler() {
    let steps = |request| Request { steps: 7, frames: 5, ..request };
    for caches in ["", TAYLOR, MODULES, FORWARD] {
        let mut whole = Whole::new("wan2.1-t2v-tiny", Offload::None, steps, caches);
        for kind in SamplerKind::ALL {
            whole.request.sampler = Some(kind);
            whole.check();
        }
    }
}

#[test]
fn two_experts_one_of_them_on_disk() {
    let steps = |request| Request { steps: 12, ..request };
    for caches in [TAYLOR, FORWARD] {
        Whole::new("wan2.2-t2v-tiny", Offload::Disk, steps, caches).check();
    }
}

#[test]
fn image_to_video_whose_first_frame_is_given() {
    Whole::new("wan2.2-i2v-tiny", Offload::None, |r| Request { steps: 10, frames: 5, ..r }, TAYLOR).check();
}

#[test]
fn flux_from_an_image_at_a_late_first_step() {
    fn picture() -> Arc<Picture> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/pictures/pillow/rgb.png");
        Arc::new(Picture::read(std::path::Path::new(path)).unwrap())
    }
    let from_image = |r: Request| Request { steps: 9, strength: Some(0.8), image: Some(picture()), ..r };
    let whole = Whole::new("tiny-flux", Offload::None, from_image, TAYLOR);
    assert!(whole.pipeline.trajectory(&whole.request).unwrap().first > 0);
    whole.check();
    Whole::new("tiny-flux", Offload::None, |r| Request { steps: 8, ..r }, FORWARD).check();
}
