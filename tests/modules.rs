//! Hooks around modules inside blocks: what is replaced, from whose slot, and what caches around the blocks
//! learn of it.

mod support;

use std::{cell::Cell, sync::Arc};

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{
    BlockHook, Branch, CachePlan, ConfigError, Cx, Expert, Guards, HookRegistry, ModelMeta, Modules, Next,
    Output, Pass, Phase, Session, Step, Streams, Trajectory, no_signals,
    state::HookId,
    testing::{self, Calls, SpyForecast, assert_decisions, transcript},
};
use support::{Script, Witness, said};

const BOTH: [Branch; 2] = [Branch::Cond, Branch::Uncond];

/// Blocks on a single number: `x + mixer(x) + 100·step`, where `mixer(x)` is `2x + step·(i + 1)` in block
/// `i`, plus 1000 on the unconditional branch.
struct Numbers {
    blocks: usize,
    mixed: Cell<usize>,
}

impl Numbers {
    fn new(blocks: usize) -> Self {
        Self { blocks, mixed: Cell::new(0) }
    }

    fn meta(&self) -> ModelMeta {
        let experts = (&["high", "low"]).into();
        ModelMeta { modules: (&["mixer"]).into(), experts, ..ModelMeta::simple("numbers", self.blocks) }
    }

    fn block(
        &self,
        i: usize,
        x: Streams,
        step: &Step,
        branch: Branch,
        modules: &mut Modules<'_>,
    ) -> Result<Streams> {
        let step = step.index as f64;
        let more = if branch == Branch::Uncond { 1000.0 } else { 0.0 };
        let mixed = modules.module("mixer", x.clone(), |x| {
            self.mixed.set(self.mixed.get() + 1);
            x.map(|x| x.affine(2.0, step * (i as f64 + 1.0) + more))
        })?;
        x.add(&mixed)?.map(|x| x + 100.0 * step)
    }

    fn forward(&self, x: Tensor, step: &Step, branch: Branch, pass: &mut Pass<'_>) -> Result<Tensor> {
        pass.forward(x, |x, pass| {
            let block = |i, x, modules: &mut Modules<'_>| self.block(i, x, step, branch, modules);
            pass.run_modules(self.blocks, &no_signals, Streams::Image(x), block)?.into_image()
        })
    }

    /// The output for an input of 1.
    fn run(&self, session: Option<&mut Session>, step: &Step, branch: Branch) -> f32 {
        let one = Tensor::ones((1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let mut pass = session.map_or(Pass::off(), |session| session.pass(step.clone(), branch));
        let y = self.forward(one, step, branch, &mut pass).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()[0]
    }

    fn plan(&self, text: &str, run: &Trajectory) -> Session {
        magcache_strategies::link();
        CachePlan::parse(text).unwrap().build(&self.meta(), Some(run)).unwrap().registry.session()
    }
}

fn table(keys: &str) -> String {
    format!("[[cache]]\nstrategy = \"schedule\"\nat = \"mixer\"\n{keys}\n")
}

fn step(index: usize) -> Step {
    Step::plain(index, 6)
}

#[test]
fn the_output_of_a_module_is_repeated_and_the_rest_of_the_block_runs() {
    let toy = Numbers::new(2);
    let mut session = toy.plan(&table("skip = [2]"), &Trajectory::plain(6, &[Branch::Cond]));
    let got: Vec<f32> = (0..4).map(|i| toy.run(Some(&mut session), &step(i), Branch::Cond)).collect();
    // Step 1: 1 + 3 + 100 = 104, then 104 + 210 + 100. Step 2 repeats the 3 and the 210: 1 + 3 + 200, 204 +
    // 210 + 200.
    assert_eq!(got, [9.0, 414.0, 614.0, 1224.0]);
    assert_eq!((toy.run(None, &step(2), Branch::Cond), toy.mixed.get()), (819.0, 6 + 2));
    assert_decisions(
        session.log(),
        &[
            "0 cond #0 0..1 mixer compute warmup",
            "0 cond #0 1..2 mixer compute warmup",
            "1 cond #0 0..1 mixer compute scheduled",
            "1 cond #0 1..2 mixer compute scheduled",
            "2 cond #0 0..1 mixer reuse scheduled",
            "2 cond #0 1..2 mixer reuse scheduled",
            "3 cond #0 0..1 mixer compute scheduled",
            "3 cond #0 1..2 mixer compute scheduled",
        ],
    );
    assert_eq!(session.slots().keys().map(|key| key.blocks.clone()).filter(|at| at.len() == 1).count(), 2);
}

#[test]
fn a_forecast_that_the_table_names_stands_in() {
    let toy = Numbers::new(1);
    let run = Trajectory::plain(6, &[Branch::Cond]);
    let at_step_3 = |keys: &str| {
        let mut session = toy.plan(&table(&format!("skip = [3]\n{keys}")), &run);
        (0..4).map(|i| toy.run(Some(&mut session), &step(i), Branch::Cond)).collect::<Vec<_>>()[3]
    };
    // At the earlier steps the module returned 2, 3 and 4 for an input of 1.
    assert_eq!(at_step_3(""), 1.0 + 4.0 + 300.0);
    assert_eq!(at_step_3("forecast = { type = \"residual\" }"), 1.0 + 4.0 + 300.0);
    assert_eq!(at_step_3("forecast = { type = \"taylor\", of = \"output\" }"), 1.0 + 5.0 + 300.0);
}

#[test]
fn a_module_cache_that_may_skip_nothing_changes_no_bit() {
    let toy = Numbers::new(3);
    let run = Trajectory::plain(6, &BOTH);
    let mut built = 0;
    for info in support::strategies() {
        let text = format!("[[cache]]\nat = \"mixer\"\n{}", info.never);
        let Ok(plan) = CachePlan::parse(&text).unwrap().build(&toy.meta(), Some(&run)) else { continue };
        built += 1;
        let mut session = plan.registry.session();
        for (i, branch) in (0..6).flat_map(|i| BOTH.map(|branch| (i, branch))) {
            let cached = toy.run(Some(&mut session), &step(i), branch);
            assert_eq!(cached.to_bits(), toy.run(None, &step(i), branch).to_bits(), "{}", info.name);
        }
        assert_eq!(session.log().records().len(), 6 * 2 * 3, "{}", info.name);
    }
    assert!(built >= 2, "{built} strategies look at the step alone");
}

#[test]
fn a_cache_around_the_blocks_never_learns_what_a_module_guessed() {
    let toy = Numbers::new(2);
    let calls = Calls::default();
    let forecast = Arc::new(SpyForecast::new(calls.clone()));
    // One hook around the blocks, one around the forward: both are notified.
    for forward in [false, true] {
        let outer = Script::at([3]).hook_with(0, forecast.clone(), Guards::default());
        let builder = HookRegistry::builder(2);
        let builder = if forward { builder.forward(outer) } else { builder.ring(0..2, outer).unwrap() };
        let mut session = builder.module("mixer", Script::at([2]).hook(1)).build().session();
        for i in 0..5 {
            toy.run(Some(&mut session), &step(i), Branch::Cond);
        }
        assert_eq!(calls.take(), [("observe", 0), ("observe", 1), ("predict", 3), ("observe", 4)]);
    }
}

#[test]
fn what_an_outer_cache_keeps_computed_is_computed_inside_and_what_it_skips_is_told() {
    let toy = Numbers::new(3);
    let notes = Arc::default();
    let mut session = HookRegistry::builder(3)
        .ring(0..3, Script::at([2]).window(1, 1).hook(0))
        .unwrap()
        .module("mixer", Script::at([1, 2]).hook(1))
        .module("mixer", Arc::new(Witness("w", Arc::clone(&notes))))
        .build()
        .session();
    for i in 0..3 {
        toy.run(Some(&mut session), &step(i), Branch::Cond);
    }
    assert_decisions(
        session.log(),
        &[
            "0 cond #1 0..1 mixer compute forced",
            "0 cond #0 1..2 compute warmup",
            "0 cond #1 1..2 mixer compute warmup",
            "0 cond #1 2..3 mixer compute forced",
            "1 cond #1 0..1 mixer compute forced",
            "1 cond #0 1..2 compute scheduled",
            "1 cond #1 1..2 mixer reuse scheduled",
            "1 cond #1 2..3 mixer compute forced",
            "2 cond #1 0..1 mixer compute forced",
            "2 cond #0 1..2 reuse scheduled",
            "2 cond #1 1..2 mixer reuse outer-cache",
            "2 cond #1 2..3 mixer compute forced",
        ],
    );
    let seen = said(&notes);
    let of = |what: &str| seen.iter().filter(|line| *line == what).count();
    assert_eq!((of("w in 0..1 forced"), of("w in 1..2"), of("w skipped 1..2")), (3, 1, 2));
}

/// Forces everything inside to be computed.
#[derive(Debug)]
struct Force;

impl BlockHook for Force {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        next.forced().run(cx, x)
    }
}

#[test]
fn what_a_hook_around_the_forward_keeps_computed_is_computed_at_every_level() {
    let toy = Numbers::new(1);
    let mut session = HookRegistry::builder(1)
        .forward(Arc::new(Force))
        .ring(0..1, Script::at([1]).hook(1))
        .unwrap()
        .module("mixer", Script::at([1]).hook(2))
        .build()
        .session();
    for i in 0..2 {
        toy.run(Some(&mut session), &step(i), Branch::Cond);
    }
    let last = ["1 cond #1 0..1 compute forced", "1 cond #2 0..1 mixer compute forced"];
    assert_eq!(transcript(session.log())[2..], last);
}

#[test]
fn a_skipped_forward_tells_the_modules_too() {
    let toy = Numbers::new(2);
    let builder = HookRegistry::builder(2).forward(Script::at([1]).hook(0));
    let mut session = builder.module("mixer", Script::at([]).hook(1)).build().session();
    for i in 0..2 {
        toy.run(Some(&mut session), &step(i), Branch::Cond);
    }
    assert_eq!(
        transcript(session.log())[3..],
        [
            "1 cond #0 0..1 reuse scheduled",
            "1 cond #1 0..1 mixer reuse outer-cache",
            "1 cond #1 1..2 mixer reuse outer-cache",
        ]
    );
}

#[test]
fn branches_and_experts_have_slots_of_their_own() {
    let phases = vec![Phase { expert: Expert(0), steps: 0..3 }, Phase { expert: Expert(1), steps: 3..6 }];
    let run = Trajectory::plain(6, &BOTH).with_phases(phases);
    let toy = Numbers::new(2);
    let mut session = toy.plan(&table("skip = [2, 3, 5]"), &run);
    let mut keys = Vec::new();
    for step in run.steps() {
        let before = if matches!(step.index, 2 | 5) { step.index - 1 } else { step.index };
        for branch in BOTH {
            let mixer = |i: usize, x: f32| {
                2.0 * x + (before * (i + 1)) as f32 + if branch == Branch::Uncond { 1000.0 } else { 0.0 }
            };
            // The input of the second module at the step whose outputs are reused.
            let inner = 1.0 + mixer(0, 1.0) + 100.0 * before as f32;
            let rest = 100.0 * step.index as f32;
            let want = 1.0 + mixer(0, 1.0) + rest + mixer(1, inner) + rest;
            assert_eq!(toy.run(Some(&mut session), &step, branch), want, "step {} {branch}", step.index);
        }
        keys.push(session.slots().keys().map(|key| key.expert.0).collect::<Vec<_>>());
    }
    // Two blocks and two branches; the slots of the first expert are freed after its phase.
    assert_eq!((keys[2].as_slice(), keys[3].as_slice()), (&[0; 4][..], &[1; 4][..]));
    let mut session = toy.plan(&table("skip = [5]\nexperts = [\"low\"]"), &run);
    run.steps().for_each(|step| {
        toy.run(Some(&mut session), &step, Branch::Cond);
    });
    assert!(session.log().records().iter().all(|r| r.step >= 3));
    assert_eq!(session.log().reused(HookId(0), Branch::Cond).collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn a_module_runs_once_in_a_block_and_other_names_are_not_surrounded() {
    let registry = HookRegistry::builder(1).module("mixer", Script::at([]).hook(0)).build();
    let twice = |name: &'static str| {
        let x = Streams::Image(Tensor::ones((1, 1, 1), DType::F32, &Device::Cpu).unwrap());
        registry.session().pass(step(0), Branch::Cond).run_modules(1, &no_signals, x, |_, x, modules| {
            let x = modules.module(name, x, Ok)?;
            modules.module(name, x, Ok)
        })
    };
    let error = twice("mixer").unwrap_err().to_string();
    assert!(error.contains("\"mixer\" of block 0") && error.contains("twice"), "{error}");
    assert!(twice("other").is_ok());
}

#[test]
fn names_that_mean_two_things_are_refused() {
    magcache_strategies::link();
    let toy = Numbers::new(2).meta();
    for (module, says) in [
        ("blocks", "name of a stack"),
        ("all", "name of a word"),
        ("forward", "name of a word"),
        ("3", "reads as a range"),
        ("", "reads as a range"),
    ] {
        let model = ModelMeta { modules: vec![module].into(), ..toy.clone() };
        match CachePlan::default().build(&model, None) {
            Err(ConfigError::Problems(problems)) => {
                let text = problems[0].to_string();
                assert!(problems.len() == 1 && text.contains(says) && text.contains("\"numbers\""), "{text}");
            }
            other => panic!("{module:?} is taken: {other:?}"),
        }
    }
    let model = ModelMeta { modules: vec!["mixer", "mixer"].into(), ..toy };
    assert!(model.problems()[0].to_string().contains("name of a module"));
}

#[test]
fn a_cache_of_whole_forwards_that_learns_only_where_modules_compute_is_warned_about() {
    magcache_strategies::link();
    let (toy, run) = (Numbers::new(2), Trajectory::plain(6, &BOTH));
    let warnings = |outer: &str| -> Vec<String> {
        let text = format!("[[cache]]\nstrategy = \"{outer}\"\n{}", table("skip = [2]"));
        let built = CachePlan::parse(&text).unwrap().build(&toy.meta(), Some(&run)).unwrap();
        built.warnings.iter().map(ToString::to_string).collect()
    };
    let told = warnings("easycache");
    assert!(told.len() == 1 && told[0].contains("at which \"schedule\" computes"), "{told:?}");
    assert_eq!(warnings("fbcache"), [""; 0]);
}

#[test]
fn a_model_that_does_not_run_what_it_names_is_found() {
    let toy = Numbers::new(2);
    let one = Tensor::ones((1, 1, 1), DType::F32, &Device::Cpu).unwrap();
    let forward = |pass: &mut Pass<'_>| toy.forward(one.clone(), &step(0), Branch::Cond, pass);
    testing::check_modules(&toy.meta(), forward);
    let liar = ModelMeta { modules: vec!["mixer", "attn"].into(), ..toy.meta() };
    let found =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| testing::check_modules(&liar, forward)));
    let message = *found.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("runs a module \"attn\""), "{message}");
}

#[test]
fn a_schedule_is_known_without_the_model() {
    let (toy, run) = (Numbers::new(2), Trajectory::plain(6, &BOTH));
    let mut session = toy.plan(&table("skip = [2, 4]\nmax_total_skips = 1"), &run);
    for (step, branch) in run.steps().flat_map(|step| BOTH.map(|branch| (step.clone(), branch))) {
        toy.run(Some(&mut session), &step, branch);
    }
    assert!(session.registry().is_static());
    let log = magcache_core::schedule::simulate(session.registry(), &toy.meta(), &run).unwrap();
    assert_eq!(transcript(&log), transcript(session.log()));
}
