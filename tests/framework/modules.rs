//! Hooks around modules inside blocks: what is replaced, from whose slot, and what caches around the blocks
//! learn of it.

use std::cell::Cell;

use candle_core::Result;
use magcache_core::testing::assert_decisions;

use crate::prelude::*;

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
        ModelMeta { modules: (&["mixer"]).into(), ..simple("numbers", self.blocks) }
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
        let mut pass = session.map_or(Pass::off(), |session| session.pass(step, branch));
        values(&self.forward(one, step, branch, &mut pass).unwrap())[0] as f32
    }

    /// The outputs of the conditional branch at the first steps.
    fn steps(&self, session: &mut Session, count: usize) -> Vec<f32> {
        (0..count).map(|i| self.run(Some(session), &step(i), Branch::Cond)).collect()
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
    let mut session = session(&table("skip = [2]"), &toy.meta(), &alone(6));
    // Step 1: 1 + 3 + 100 = 104, then 104 + 210 + 100. Step 2 repeats the 3 and the 210: 1 + 3 + 200, 204 +
    // 210 + 200.
    assert_eq!(toy.steps(&mut session, 4), [9.0, 414.0, 614.0, 1224.0]);
    assert_eq!((toy.run(None, &step(2), Branch::Cond), toy.mixed.get()), (819.0, 6 + 2));
    assert_eq!(session.slots().keys().map(|key| key.blocks.clone()).filter(|at| at.len() == 1).count(), 2);
}

#[test]
fn a_forecast_that_the_table_names_stands_in() {
    let toy = Numbers::new(1);
    let at_step_3 = |keys: &str| {
        let table = table(&format!("skip = [3]\n{keys}"));
        toy.steps(&mut session(&table, &toy.meta(), &alone(6)), 4)[3]
    };
    // At the earlier steps the module returned 2, 3 and 4 for an input of 1.
    assert_eq!(at_step_3(""), 1.0 + 4.0 + 300.0);
    assert_eq!(at_step_3("forecast = { type = \"residual\" }"), 1.0 + 4.0 + 300.0);
    assert_eq!(at_step_3("forecast = { type = \"taylor\", of = \"output\" }"), 1.0 + 5.0 + 300.0);
}

#[test]
fn observers_of_a_module_see_every_pass() {
    let (toy, notes) = (Numbers::new(3), Arc::default());
    let mut session = rings(3, [(0..3, Script::at([2]).window(1, 1).hook(0))])
        .module("mixer", Script::at([1, 2]).hook(1))
        .module("mixer", Arc::new(Witness("w", Arc::clone(&notes))))
        .build()
        .session();
    toy.steps(&mut session, 3);
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
    let builder = rings(1, [(0..1, Script::at([1]).hook(1))]).forward(Arc::new(Force));
    let mut session = builder.module("mixer", Script::at([1]).hook(2)).build().session();
    toy.steps(&mut session, 2);
    assert_decisions(
        session.log(),
        &[
            "0 cond #1 0..1 compute forced",
            "0 cond #2 0..1 mixer compute forced",
            "1 cond #1 0..1 compute forced",
            "1 cond #2 0..1 mixer compute forced",
        ],
    );
}

#[test]
fn a_module_runs_once_in_a_block_and_other_names_are_not_surrounded() {
    let registry = HookRegistry::builder(1).module("mixer", Script::at([]).hook(0)).build();
    let run = |names: &[&str]| {
        let x = ones(1, 1);
        registry.session().pass(&step(0), Branch::Cond).run_modules(1, &no_signals, x, |_, x, modules| {
            names.iter().try_fold(x, |x, name| modules.module(name, x, Ok))
        })
    };
    let error = run(&["mixer", "mixer"]).unwrap_err().to_string();
    assert!(error.contains("\"mixer\" of block 0") && error.contains("twice"), "{error}");
    assert!(run(&["other", "other", "mixer"]).is_ok());
}

#[test]
fn names_that_mean_two_things_are_refused() {
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
    let (toy, run) = (Numbers::new(2), guided(6));
    let warnings = |outer: &str| -> Vec<String> {
        let text = format!("[[cache]]\nstrategy = \"{outer}\"\n{}", table("skip = [2]"));
        let built = build(&text, &toy.meta(), &run).unwrap();
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
    assert!(message.contains("the module \"attn\", but no block of \"numbers\" runs it"), "{message}");
}

#[test]
fn a_schedule_is_known_without_the_model() {
    let (toy, run) = (Numbers::new(2), guided(6));
    let mut session = session(&table("skip = [2, 4]\nmax_total_skips = 1"), &toy.meta(), &run);
    for (step, branch) in run.steps().flat_map(|step| BOTH.map(|branch| (step.clone(), branch))) {
        toy.run(Some(&mut session), &step, branch);
    }
    assert!(session.registry().is_static());
    let log = simulate(session.registry(), &toy.meta(), &run).unwrap();
    assert_eq!(transcript(&log), transcript(session.log()));
}
