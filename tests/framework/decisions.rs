//! Decisions without tensors against real runs, on random plans: a runtime that keeps tensors by itself, and
//! does what it is told, gives the outputs of the hooks to the bit, and every decision.

use std::{collections::BTreeMap, ops::Range};

use candle_core::{DType, Device, Error, Result, Tensor};
use magcache_core::{
    Branch, CachePlan, ConfigError, ModelMeta, Problem, Signal, StackMeta, Stacks, Step, Trajectory,
    decisions::{Asked, DecisionSession, Runtime},
    log::{DecisionLog, Record},
    metrics,
    snapshot::Snapshot,
    state::HookId,
    strategy::{Norm, Quantity},
    testing::same_bits,
};
use proptest::prelude::*;

const BLOCKS: usize = 6;
const STEPS: usize = 14;

const META: ModelMeta = ModelMeta::of("mini", env!("CARGO_PKG_NAME"))
    .stacks(&[StackMeta::image("blocks", BLOCKS)])
    .experts(&["high", "low"])
    .signals(&[Signal::ModulatedInput])
    .meta();

fn block(i: usize, x: &Tensor, step: &Step, branch: Branch) -> Result<Tensor> {
    let shift = if branch == Branch::Cond { 0.3 } else { -0.2 };
    x + (x.affine(0.6 + 0.1 * i as f64, shift * step.sigma)?.tanh()? * 0.2)?
}

fn modulated(x: &Tensor, step: &Step) -> Result<Tensor> {
    x.affine(1.0 + 0.3 * step.sigma, 0.1)
}

/// Where something is kept: cache, blocks, branch, expert.
type Place = (HookId, usize, usize, Branch, u8);

/// A runtime with tensors of its own.
struct Engine {
    x: Tensor,
    step: Step,
    branch: Branch,
    inputs: BTreeMap<(HookId, usize, usize), Tensor>,
    residuals: BTreeMap<Place, Tensor>,
    quantities: BTreeMap<(Place, usize), Tensor>,
    computed: usize,
    /// The block that fails.
    fault: Option<usize>,
}

impl Engine {
    fn new(run: &Trajectory) -> Self {
        Self {
            x: Tensor::zeros((), DType::F32, &Device::Cpu).unwrap(),
            step: run.step(0),
            branch: Branch::Cond,
            inputs: BTreeMap::new(),
            residuals: BTreeMap::new(),
            quantities: BTreeMap::new(),
            computed: 0,
            fault: None,
        }
    }

    fn place(&self, cache: HookId, blocks: &Range<usize>) -> Place {
        (cache, blocks.start, blocks.end, self.branch, self.step.expert.0)
    }
}

impl Runtime for Engine {
    type Error = Error;

    fn compute(&mut self, blocks: Range<usize>) -> Result<()> {
        for i in blocks {
            if self.fault == Some(i) {
                return Err(Error::msg("a fault"));
            }
            self.x = block(i, &self.x, &self.step, self.branch)?;
            self.computed += 1;
        }
        Ok(())
    }

    fn reuse(&mut self, cache: HookId, blocks: Range<usize>) -> Result<()> {
        self.x = (&self.x + &self.residuals[&self.place(cache, &blocks)])?;
        Ok(())
    }

    fn measure(&mut self, asked: &Asked<'_>) -> Result<f64> {
        let input = self.inputs.get(&(asked.cache, asked.front.start, asked.front.end));
        let now = match (asked.measure.of, input) {
            (Quantity::Signal(_), Some(input)) => modulated(input, &self.step)?,
            (Quantity::Signal(_), None) => modulated(&self.x, &self.step)?,
            (Quantity::FrontResidual | Quantity::FrontResidualOfAll, Some(input)) => (&self.x - input)?,
            (_, None) => return Err(Error::msg("the front blocks were not announced")),
        };
        let place = self.place(asked.cache, &asked.blocks);
        self.quantities.insert((place, self.step.index), now.clone());
        let Some(since) = asked.since else { return Ok(f64::NAN) };
        let before = &self.quantities[&(place, since)];
        match asked.measure.norm {
            Norm::L1 => metrics::relative_l1(&now, before),
            Norm::L2 => metrics::relative_l2(&now, before),
        }
    }

    fn enter(&mut self, cache: HookId, blocks: Range<usize>) -> Result<()> {
        self.inputs.insert((cache, blocks.start, blocks.end), self.x.clone());
        Ok(())
    }

    fn leave(&mut self, cache: HookId, blocks: Range<usize>) -> Result<()> {
        let input = &self.inputs[&(cache, blocks.start, blocks.end)];
        self.residuals.insert(self.place(cache, &blocks), (&self.x - input)?);
        Ok(())
    }
}

fn latents(step: &Step) -> Tensor {
    let at = |i: usize| ((i as f64 * 0.7 + 0.6 * step.sigma).sin() + 0.2) as f32;
    Tensor::from_vec((0..24).map(at).collect(), (1, 3, 8), &Device::Cpu).unwrap()
}

/// A table of a strategy that decides from numbers, around some blocks.
fn table() -> impl Strategy<Value = String> {
    let ratios: Vec<String> = (0..STEPS).map(|i| format!("{}", 1.0 - 0.004 * i as f64)).collect();
    let ratios = ratios.join(", ");
    let own = prop_oneof![
        (0.0..0.4, 0.0..0.8)
            .prop_map(|(t, ema)| format!("strategy = \"fbcache\"\nthreshold = {t:.4}\nema = {ema:.4}")),
        (0.0..0.4).prop_map(|t| {
            format!("strategy = \"fbcache\"\nthreshold = {t:.4}\nmetric = \"hidden_rel_l2\"")
        }),
        (0.0..0.4, 0..2).prop_map(|(t, back)| {
            format!("strategy = \"dbcache\"\nfront = 1\nback = {back}\nthreshold = {t:.4}\nwarmup = 2")
        }),
        (0.0..0.5).prop_map(|t| format!("strategy = \"teacache\"\nthreshold = {t:.4}\npolicy = \"linear\"")),
        (0.0..0.3).prop_map(move |t| {
            format!("strategy = \"magcache\"\nthreshold = {t:.4}\nratios = [{ratios}]")
        }),
        proptest::collection::vec(0..STEPS, 0..8)
            .prop_map(|skip| format!("strategy = \"schedule\"\nskip = {skip:?}")),
    ];
    let range = (0..3usize, 3..=BLOCKS).prop_map(|(from, to)| format!("at = \"{from}..{to}\""));
    let expert = prop_oneof![Just(""), Just("experts = [\"high\"]"), Just("experts = [\"low\"]")];
    let branches = prop_oneof![Just(""), Just("branches = \"cond-decides\"")];
    let cap = prop_oneof![Just(""), Just("max_skips = 2"), Just("max_total_skips = 3")];
    (own, range, expert, branches, cap).prop_map(|(own, range, expert, branches, cap)| {
        let warmup = if own.contains("warmup") { "" } else { "warmup = 1" };
        format!("[[cache]]\n{own}\n{range}\n{expert}\n{branches}\n{cap}\n{warmup}\n")
    })
}

fn without_bytes(records: &[Record]) -> Vec<Record> {
    records.iter().map(|record| Record { bytes: 0, ..record.clone() }).collect()
}

proptest! {
    #[test]
    fn a_runtime_that_does_as_it_is_told_gives_the_run_of_the_hooks(
        tables in proptest::collection::vec(table(), 1..4),
        switch in 0.2..0.9,
    ) {
        magcache_strategies::link();
        let plan = CachePlan::parse(&tables.concat()).unwrap();
        let sigmas: Vec<f64> = (0..=STEPS).map(|i| 1.0 - i as f64 / STEPS as f64).collect();
        let run = Trajectory::from_sigmas(&sigmas, &[Branch::Cond, Branch::Uncond]).switch_at(switch);
        // Plans that are refused with tensors are refused without them.
        let (built, decided) = (plan.build(&META, Some(&run)), plan.decisions(&META, Some(&run), &[]));
        let (Ok(built), Ok(decided)) = (&built, &decided) else {
            prop_assert!(built.is_err() && decided.is_err(), "{:?} {:?}", built.err(), decided.err());
            return Ok(());
        };
        prop_assert_eq!(built.registry.is_static(), decided.decisions.is_static());
        let ahead = decided.decisions.ahead(&run);
        let (mut real, mut own) = (built.registry.session(), decided.decisions.session());
        let mut engine = Engine::new(&run);
        let numbers: Vec<usize> = (0..BLOCKS).collect();
        let mut places = ahead.iter();
        for step in run.steps() {
            for branch in [Branch::Cond, Branch::Uncond] {
                let y = Stacks::default()
                    .image(&numbers, |i, x| block(*i, x, &step, branch))
                    .signals(|_, x| modulated(&x.image()?, &step))
                    .run(&mut real.pass(&step, branch), latents(&step))
                    .unwrap();
                engine = Engine { x: latents(&step), step: step.clone(), branch, computed: 0, ..engine };
                own.pass(&step, branch, &mut engine).unwrap();
                prop_assert!(same_bits(&engine.x, &y), "step {} of {branch}", step.index);
                // What was known before the run holds.
                let known = places.next().unwrap();
                let count = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).sum::<usize>();
                let (computed, open) = (count(&known.computed), count(&known.open));
                prop_assert!((computed..=computed + open).contains(&engine.computed), "{:?}", known);
                prop_assert!(open == 0 || !decided.decisions.is_static());
            }
            // A session that is stored and restored goes on as if nothing had happened.
            if step.index == STEPS / 2 {
                let mut snapshot = Snapshot::default();
                own.save(&mut snapshot.writer()).unwrap();
                own = decided.decisions.session();
                own.restore(&snapshot.values_reader()).unwrap();
            }
        }
        prop_assert_eq!(without_bytes(own.log().records()), without_bytes(real.log().records()));
    }
}

/// A step past the end of the run has nothing to skip, whatever the plan says.
#[test]
fn past_the_last_step_everything_is_computed() {
    magcache_strategies::link();
    let run = Trajectory::plain(4, &[Branch::Cond]);
    let plan = CachePlan::parse("[[cache]]\nstrategy = \"fbcache\"\nthreshold = 1e9\n").unwrap();
    let mut session = plan.decisions(&META, Some(&run), &[]).unwrap().decisions.session();
    let mut engine = Engine::new(&run);
    for index in 0..7 {
        let step = run.step(index);
        (engine.x, engine.step) = (latents(&step), step.clone());
        session.pass(&step, Branch::Cond, &mut engine).unwrap();
    }
    let reused: Vec<usize> =
        session.log().records().iter().filter(|record| record.reused).map(|record| record.step).collect();
    assert_eq!(reused, [1, 2]);
}

/// A stored state of other caches is refused with an error that names both; the session is as it was.
#[test]
fn a_state_of_other_caches_is_refused() {
    magcache_strategies::link();
    let run = Trajectory::plain(STEPS, &[Branch::Cond]);
    let table = |own: &str| format!("[[cache]]\nstrategy = {own}\nwarmup = 1\n");
    let own = table("\"fbcache\"\nthreshold = 0.2");
    let decided = |plan: &str| {
        CachePlan::parse(plan).unwrap().decisions(&META, Some(&run), &[]).expect(plan).decisions.session()
    };
    let pass = |session: &mut DecisionSession, index: usize| {
        let step = run.step(index);
        let mut engine = Engine { x: latents(&step), step: step.clone(), ..Engine::new(&run) };
        session.pass(&step, Branch::Cond, &mut engine).unwrap();
    };
    let mut stored = decided(&own);
    pass(&mut stored, 0);
    let mut snapshot = Snapshot::default();
    stored.save(&mut snapshot.writer()).unwrap();
    let inner = table("\"schedule\"\nskip = [4]\nat = \"2..4\"");
    // The threshold may change.
    for same in [own.clone(), table("\"fbcache\"\nthreshold = 0.3")] {
        let mut session = decided(&same);
        session.restore(&snapshot.values_reader()).unwrap();
        assert_eq!(session.log(), stored.log());
    }
    let fbcache = "FbCache around 0..6 of 6 blocks (front 1, back 0), experts [], compares Measure";
    for (other, parts) in [
        (
            table("\"schedule\"\nskip = [4]"),
            [fbcache, "expected \"FixedSchedule around 0..6", "compares nothing"],
        ),
        (table("\"fbcache\"\nat = \"0..5\""), [fbcache, "expected \"FbCache around 0..5", "of 6 blocks"]),
        (
            table("\"fbcache\"\nexperts = [\"low\"]"),
            [fbcache, "expected \"FbCache around 0..6", "experts [1]"],
        ),
        (table("\"fbcache\"\ndownsample = 2"), [fbcache, "every: 1", "every: 2"]),
        (table("\"dbcache\"\nfront = 2\nback = 1"), [fbcache, "around 0..6", "front 2, back 1"]),
        (format!("{own}{inner}"), ["`caches` of the stored state", "is \"1\"", "expected 2 caches"]),
    ] {
        let mut session = decided(&other);
        let error = session.restore(&snapshot.values_reader()).expect_err(&other).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{other}: {error}");
        assert!(session.log().records().is_empty(), "{other}");
    }
    let small = META.with_blocks(&[5]);
    let small = CachePlan::parse(&own).unwrap().decisions(&small, None, &[]).unwrap();
    let error = small.decisions.session().restore(&snapshot.values_reader()).unwrap_err().to_string();
    assert!(error.contains("0..6 of 6 blocks") && error.contains("0..5 of 5 blocks"), "{error}");
}

/// The prediction of a branch for a sample.
type Predict<'a> = dyn FnMut(&Step, Branch, &[f32]) -> Vec<f32> + 'a;

/// Denoises along a run, with a solver of first or second order.
fn denoised(run: &Trajectory, second_order: bool, mut x: Vec<f32>, predict: &mut Predict<'_>) -> Vec<f32> {
    let moved = |x: &[f32], by: &[f32], sigma: f64| -> Vec<f32> {
        x.iter().zip(by).map(|(x, by)| x + by * sigma as f32).collect()
    };
    for (step, pair) in run.steps().zip(run.sigmas.windows(2)) {
        let mut guided = |step: &Step, x: &[f32]| -> Vec<f32> {
            let (cond, uncond) = (predict(step, Branch::Cond, x), predict(step, Branch::Uncond, x));
            cond.iter().zip(uncond).map(|(cond, uncond)| uncond + 4.0 * (cond - uncond)).collect()
        };
        let by = pair[1] - pair[0];
        let first = guided(&step, &x);
        let ahead = moved(&x, &first, by);
        if !second_order || pair[1] == 0.0 {
            x = ahead;
            continue;
        }
        let there = Step { eval: 1, timestep: 1000.0 * pair[1], sigma: pair[1], ..step.clone() };
        x = moved(&moved(&x, &first, by / 2.0), &guided(&there, &ahead), by / 2.0);
    }
    x
}

/// The decisions of the program without candle are those of a real run of the same arithmetic, also with two
/// experts, with a solver that evaluates a step twice, and where not every token counts.
#[test]
fn a_loop_without_candle_decides_as_a_real_run() {
    use magcache_plugin_runtime as runtime;

    let start: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
    let numbers: Vec<usize> = (0..runtime::BLOCKS).collect();
    let each = |x: &Tensor, f: &dyn Fn(f32) -> f32| {
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        Tensor::from_vec(values.into_iter().map(f).collect::<Vec<_>>(), x.shape(), x.device())
    };
    let (one, mut reused, mut seen) = (runtime::trajectory(20), 0, Vec::new());
    for plan in [
        "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.1",
        "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.1\ndownsample = 3",
        "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.1\nmetric = \"hidden_rel_l2\"\ndownsample = 2",
        "[[cache]]\nstrategy = \"teacache\"\nthreshold = 0.15\npolicy = \"linear\"",
        "[[cache]]\nstrategy = \"schedule\"\nskip = [3, 4, 6, 7]\nat = \"2..7\"",
    ] {
        let (latents, log) = runtime::denoise(plan, &one, start.clone()).unwrap();
        for (run, second_order) in
            [(one.clone(), false), (one.clone(), true), (one.clone().switch_at(0.8), false)]
        {
            let plan = CachePlan::parse(plan).unwrap();
            let mut own = plan.decisions(&runtime::META, Some(&run), &[]).unwrap().decisions.session();
            let mut real = plan.build(&runtime::META, Some(&run)).unwrap().registry.session();
            let mut engine = runtime::Engine::new(&run);
            let x = denoised(&run, second_order, start.clone(), &mut |step, branch, x| {
                let told = engine.predict(&mut own, step, branch, x);
                let y = Stacks::default()
                    .image(&numbers, |i, x| each(x, &|x| x + runtime::added(*i, x, step, branch)))
                    .signals(|_, x| each(&x.image()?, &|x| runtime::modulated(x, step)))
                    .run(
                        &mut real.pass(step, branch),
                        Tensor::from_slice(x, (1, 8, 8), &Device::Cpu).unwrap(),
                    );
                assert_eq!(told, y.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), "{plan:?}");
                told
            });
            // The numbers are added in another order, so only the decisions are equal.
            let decisions = |log: &DecisionLog| -> Vec<Record> {
                let bare = |r: Record| Record { metric: None, accumulated: None, ..r };
                without_bytes(log.records()).into_iter().map(bare).collect()
            };
            assert_eq!(decisions(own.log()), decisions(real.log()), "{plan:?}");
            reused += own.log().records().iter().filter(|record| record.reused).count();
            seen.extend(own.log().records().iter().map(|record| (record.expert.0, record.eval)));
            if run == one && !second_order {
                assert_eq!((&latents, &log), (&x, own.log()), "{plan:?}");
            }
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [(0, 0), (0, 1), (1, 0)]);
    assert!(reused > 60, "{reused}");
}

/// The problems of a plan without tensors.
fn refused(plan: &str) -> Vec<Problem> {
    magcache_strategies::link();
    let meta = ModelMeta { modules: (&["mixer"]).into(), ..META };
    CachePlan::parse(plan).unwrap().build(&meta, None).expect(plan);
    match CachePlan::parse(plan).unwrap().decisions(&meta, None, &[]) {
        Err(ConfigError::Problems(problems)) => problems,
        other => panic!("{plan}: {other:?}"),
    }
}

#[test]
fn tables_that_need_tensors_are_refused_with_their_place() {
    let schedule = "[[cache]]\nstrategy = \"schedule\"\nskip = [4]\n";
    let mixed = "[[cache]]\nstrategy = \"priority\"\nmembers = [{ strategy = \"fbcache\" }, { strategy = \"magcache\", ratios = [1.0, 0.9] }]\n";
    let blocks = ["looks at tensors, or not at blocks", "around blocks"];
    for (plan, place, [message, hint]) in [
        ("[[cache]]\nstrategy = \"easycache\"\n".to_owned(), "cache[0] (strategy \"easycache\")", blocks),
        (format!("{schedule}at = \"mixer\""), "cache[0] (strategy \"schedule\")", blocks),
        (format!("{schedule}at = \"forward\""), "cache[0] (strategy \"schedule\")", blocks),
        (
            format!("{schedule}at = \"5..6\"\n{mixed}at = \"0..5\""),
            "cache[1] (strategy \"priority\")",
            blocks,
        ),
        (
            format!("{schedule}forecast = {{ type = \"taylor\" }}"),
            "cache[0] (strategy \"schedule\")",
            ["`forecast` computes tensors", "remove it"],
        ),
        (
            format!("{schedule}[audit]\nfraction = 1.0\ndrift_budget = 0.1\non_drift = \"disable\""),
            "[audit]",
            ["audits compare tensors", "remove the table"],
        ),
    ] {
        let problems = refused(&plan);
        let [problem] = &problems[..] else { panic!("{plan}: {problems:?}") };
        assert_eq!(problem.place, place, "{plan}");
        assert!(problem.message.contains(message), "{problem}");
        assert!(problem.hint.as_ref().is_some_and(|own| own.contains(hint)), "{problem:?}");
    }
    // How residuals are stored is left to the runtime, which is a warning.
    let plan = format!("{schedule}[residuals]\ndtype = \"bf16\"");
    let decided = CachePlan::parse(&plan).unwrap().decisions(&META, None, &[]).unwrap();
    let [warning] = &decided.warnings[..] else { panic!("{:?}", decided.warnings) };
    assert!(!warning.fatal && warning.place == "[residuals]" && warning.hint.is_some(), "{warning:?}");
    assert!(CachePlan::parse(schedule).unwrap().decisions(&META, None, &[]).unwrap().warnings.is_empty());
}

/// A pass that ends in an error has decided nothing: run again it decides the same, and otherwise the next
/// step computes. A block of a real run that fails has the same effect.
#[test]
fn an_error_of_the_runtime_is_one_of_a_block() {
    magcache_strategies::link();
    let run = Trajectory::plain(STEPS, &[Branch::Cond, Branch::Uncond]);
    let numbers: Vec<usize> = (0..BLOCKS).collect();
    let mut failed = 0;
    for plan in [
        "[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.25\nmax_total_skips = 5",
        "[[cache]]\nstrategy = \"dbcache\"\nfront = 1\nback = 1\nthreshold = 0.25\nwarmup = 2\nbranches = \"cond-decides\"",
        "[[cache]]\nstrategy = \"teacache\"\nthreshold = 0.2\npolicy = \"linear\"\nat = \"0..5\"",
        "[[cache]]\nstrategy = \"schedule\"\nat = \"1..4\"\nskip = [3, 4, 6, 7, 9]",
    ] {
        let plan = CachePlan::parse(plan).unwrap();
        let hooks = plan.build(&META, Some(&run)).unwrap().registry;
        let decisions = plan.decisions(&META, Some(&run), &[]).unwrap().decisions;
        let mut clean: Option<Vec<Record>> = None;
        for (fault, again) in
            [None, Some(0), Some(2), Some(5)].into_iter().flat_map(|at| [(at, true), (at, false)])
        {
            let (mut real, mut own) = (hooks.session(), decisions.session());
            let mut engine = Engine::new(&run);
            let mut last_failed: Option<usize> = None;
            for (step, branch) in
                run.steps().flat_map(|step| run.branches.clone().into_iter().map(move |b| (step.clone(), b)))
            {
                let fails = [4, 7, 9].contains(&step.index) && branch == Branch::Cond;
                let mut pass = |fault: Option<usize>| {
                    let each = |i: usize, x: &Tensor| match fault {
                        Some(fault) if fault == i => Err(Error::msg("a fault")),
                        _ => block(i, x, &step, branch),
                    };
                    let y = Stacks::default()
                        .image(&numbers, |i, x| each(*i, x))
                        .signals(|_, x| modulated(&x.image()?, &step))
                        .run(&mut real.pass(&step, branch), latents(&step));
                    (engine.x, engine.step, engine.branch, engine.fault) =
                        (latents(&step), step.clone(), branch, fault);
                    let told = own.pass(&step, branch, &mut engine);
                    assert_eq!(y.is_err(), told.is_err(), "{plan:?} {fault:?} at step {}", step.index);
                    y.is_ok_and(|y| {
                        assert!(same_bits(&y, &engine.x), "{plan:?} {fault:?} at step {}", step.index);
                        true
                    })
                };
                let passed = pass(fault.filter(|_| fails));
                failed += usize::from(!passed);
                if !passed && again {
                    assert!(pass(None), "the retry runs");
                } else if branch == Branch::Cond {
                    let of = |record: &&Record| record.step == step.index && record.branch == branch;
                    let mut records = own.log().records().iter().filter(of);
                    if last_failed.is_some() && passed {
                        assert!(records.all(|record| !record.reused), "step {} computes", step.index);
                    } else if !passed {
                        assert_eq!(records.count(), 0, "it has decided nothing");
                    }
                    last_failed = (!passed).then_some(step.index);
                }
            }
            let [own, real] = [own.log(), real.log()].map(|log| without_bytes(log.records()));
            assert_eq!(own, real, "{plan:?} {fault:?}, again: {again}");
            assert!(own.iter().any(|record| record.reused), "{plan:?}");
            match &clean {
                Some(clean) if again => assert_eq!(&own, clean, "{plan:?} {fault:?}"),
                Some(_) => {}
                None => clean = Some(own),
            }
        }
    }
    assert!(failed > 24, "{failed}");
}
