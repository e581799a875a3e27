//! Several hooks: on one block, on ranges, on a one-block model, nested and overlapping.

mod support;

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{
    BlockHook, Branch, Cx, Guards, Head, HookRegistry, Level, Modules, Next, Output, Phase, Role, Session,
    Step, Streams, TimestepCache, Trajectory, Verdict, Why, Window, metrics, no_signals,
    state::HookId,
    strategy::CacheHook,
    testing::{self, Calls, Inexact, Ran, SpyForecast, Toy, assert_decisions, run, run_pass, same_bits},
};
use support::{Script, Witness, hook_of, said, session, strategies};

/// Witnesses with their ranges, outermost first.
type Rings<'a> = &'a [(&'static str, std::ops::Range<usize>)];

/// A session of `toy` with witnesses around ranges, outermost first.
fn watched(toy: &Toy, rings: Rings<'_>) -> (Session, Arc<Mutex<Vec<String>>>) {
    let notes: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut builder = HookRegistry::builder(toy.blocks());
    for (name, at) in rings {
        builder = builder.ring(at.clone(), Arc::new(Witness(name, Arc::clone(&notes)))).unwrap();
    }
    (builder.build().session(), notes)
}

fn cond(toy: &Toy, session: &mut Session, index: usize) -> Ran {
    run_pass(toy, Some(session), &Step::plain(index, 8), Branch::Cond, 1).unwrap()
}

fn plain(toy: &Toy, index: usize) -> Ran {
    run_pass(toy, None, &Step::plain(index, 8), Branch::Cond, 1).unwrap()
}

#[test]
fn the_first_ring_is_the_outermost() {
    for blocks in [1, 3] {
        let toy = Toy::image(blocks);
        let (mut session, notes) = watched(&toy, &[("a", 0..1), ("b", 0..1), ("c", 0..1)]);
        let ran = cond(&toy, &mut session, 0);
        assert_eq!(
            said(&notes),
            ["a in 0..1", "b in 0..1", "c in 0..1", "c out 0..1", "b out 0..1", "a out 0..1"]
        );
        assert!(ran.is_whole(blocks) && same_bits(&ran.output, &plain(&toy, 0).output));
    }
}

#[test]
fn nested_disjoint_and_partly_overlapping_ranges() {
    let toy = Toy::dual_joint(2, 4, [Role::Text, Role::Image]);
    let cases: [(Rings<'_>, &[&str]); 4] = [
        (&[("a", 0..6), ("b", 2..4)], &["a in 0..6", "b in 2..4", "b out 2..4", "a out 0..6"]),
        (&[("a", 0..2), ("b", 4..6)], &["a in 0..2", "a out 0..2", "b in 4..6", "b out 4..6"]),
        // The outer ring stays whole; the inner one is entered once inside it and once after it.
        (
            &[("a", 0..4), ("b", 2..6)],
            &["a in 0..4", "b in 2..4", "b out 2..4", "a out 0..4", "b in 4..6", "b out 4..6"],
        ),
        // The inner ring is wider: it is split into parts and never surrounds the outer ring.
        (
            &[("a", 2..4), ("b", 0..6)],
            &[
                "b in 0..2",
                "b out 0..2",
                "a in 2..4",
                "b in 2..4",
                "b out 2..4",
                "a out 2..4",
                "b in 4..6",
                "b out 4..6",
            ],
        ),
    ];
    for (rings, expected) in cases {
        let (mut session, notes) = watched(&toy, rings);
        let ran = cond(&toy, &mut session, 0);
        assert_eq!(said(&notes), expected);
        assert!(ran.is_whole(6) && same_bits(&ran.output, &plain(&toy, 0).output));
    }
}

/// Records the blocks that it was called for, and whether its input had already been added up.
#[derive(Debug, Default)]
struct Given(Mutex<Vec<(Range<usize>, bool)>>);

impl BlockHook for Given {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        let added = x.image()?.mean_all()?.to_scalar::<f32>()? == next.blocks().start as f32;
        self.0.lock().unwrap().push((next.blocks(), added));
        next.run(cx, x)
    }
}

#[test]
fn an_addition_is_put_off_after_the_last_block_and_nowhere_else() {
    let add = |_: usize, x: Streams, _: &mut Modules<'_>| x.map_image(|x| x + 1.0);
    let x = Tensor::zeros((1, 2, 3), DType::F32, &Device::Cpu).unwrap();
    // The last range is skipped too, or computed; the first one is followed by a hook, or by a block.
    for (last, at) in [(1, 2..4), (7, 3..4)] {
        let given = Arc::new(Given::default());
        let registry = HookRegistry::builder(6)
            .ring(0..2, Script::at([1]).hook(0))
            .and_then(|b| b.ring(at.clone(), Arc::clone(&given) as Arc<dyn BlockHook>))
            .and_then(|b| b.ring(4..6, Script::at([last]).hook(2)))
            .unwrap()
            .build();
        let step = |session: &mut Session, index| {
            let mut pass = session.pass(Step::plain(index, 8), Branch::Cond);
            pass.run_lazy(6, &no_signals, Streams::Image(x.clone()), add).unwrap()
        };
        let mut session = registry.session();
        assert!(step(&mut session, 0).into_image_terms().unwrap().1.is_none());
        let out = step(&mut session, 1);
        assert_eq!(out.clone().into_image_terms().unwrap().1.is_some(), last == 1);
        assert!(same_bits(&out.added().unwrap().streams.into_image().unwrap(), &(&x + 6.0).unwrap()));
        assert_eq!(*given.0.lock().unwrap(), [(at.clone(), true), (at, true)]);

        let mut session = registry.session();
        for index in [0, 1] {
            let mut pass = session.pass(Step::plain(index, 8), Branch::Cond);
            let out = pass.run(6, &no_signals, Streams::Image(x.clone()), |_, x| x.map_image(|x| x + 1.0));
            let Streams::Image(out) = out.unwrap() else { panic!("a model of one stream got another kind") };
            assert!(same_bits(&out, &(&x + 6.0).unwrap()));
        }
    }
}

#[test]
fn front_and_back_are_forced_through_inner_caches() {
    let toy = Toy::image(5);
    let notes: Arc<Mutex<Vec<String>>> = Arc::default();
    let registry = HookRegistry::builder(5)
        .ring(0..5, Script::at([2]).window(1, 2).hook(0))
        .and_then(|b| b.ring(0..5, Script::at(1..8).hook(1)))
        .and_then(|b| b.ring(0..1, Arc::new(Witness("first", Arc::clone(&notes)))))
        .and_then(|b| b.ring(2..3, Arc::new(Witness("third", Arc::clone(&notes)))))
        .unwrap()
        .build();
    let mut session = registry.session();
    let executed: Vec<Vec<usize>> =
        (0..3).map(|i| cond(&toy, &mut session, i).blocks.iter().map(|b| b.block).collect()).collect();
    // Step 1: the inner cache replaces only the middle. Step 2: the outer one replaces it.
    assert_eq!(executed, [vec![0, 1, 2, 3, 4], vec![0, 3, 4], vec![0, 3, 4]]);
    assert_decisions(
        session.log(),
        &[
            "0 cond #1 0..1 compute forced",
            "0 cond #0 1..3 compute warmup",
            "0 cond #1 1..3 compute warmup",
            "0 cond #1 3..5 compute forced",
            "1 cond #1 0..1 compute forced",
            "1 cond #0 1..3 compute scheduled",
            "1 cond #1 1..3 reuse scheduled",
            "1 cond #1 3..5 compute forced",
            "2 cond #1 0..1 compute forced",
            "2 cond #0 1..3 reuse scheduled",
            "2 cond #1 1..3 reuse outer-cache",
            "2 cond #1 3..5 compute forced",
        ],
    );
    // Observers see every pass, including forced and skipped ones.
    let first = ["first in 0..1 forced", "first out 0..1"];
    let expected: Vec<&str> = [&first[..], &["third in 2..3", "third out 2..3"]]
        .concat()
        .into_iter()
        .chain([&first[..], &["third skipped 2..3"], &first[..], &["third skipped 2..3"]].concat())
        .collect();
    assert_eq!(said(&notes), expected);
}

#[test]
fn the_outer_cache_never_learns_what_the_inner_one_guessed() {
    let toy = Toy::image(4);
    let calls = Calls::default();
    let forecast = Arc::new(SpyForecast::new(calls.clone()));
    let registry = HookRegistry::builder(4)
        .ring(0..4, Script::at([3]).hook_with(0, forecast, Guards::default()))
        .and_then(|b| b.ring(1..3, Script::at([2]).hook(1)))
        .unwrap()
        .build();
    let mut session = registry.session();
    let ran: Vec<Ran> = (0..4).map(|i| cond(&toy, &mut session, i)).collect();
    assert_eq!(calls.take(), [("observe", 0), ("observe", 1), ("predict", 3)]);
    let residual = |ran: &Ran| {
        let (first, last) = (ran.blocks.first().unwrap(), ran.blocks.last().unwrap());
        last.output.sub(&first.input).unwrap()
    };
    // The embedding of the toy is the input of block 0 in a run without hooks.
    let input = plain(&toy, 3).blocks[0].input.clone();
    let expected =
        |from: &Ran| input.add(&residual(from)).unwrap().image().unwrap().affine(0.8, 0.01).unwrap();
    assert!(same_bits(&ran[3].output, &expected(&ran[1])));
    assert!(!same_bits(&ran[3].output, &expected(&ran[2])));
}

#[test]
fn two_caches_on_one_block_keep_a_slot_each() {
    for blocks in [1, 2] {
        let toy = Toy::image(blocks);
        let registry = HookRegistry::builder(blocks)
            .ring(0..1, Script::at([2]).hook(0))
            .and_then(|b| b.ring(0..1, Script::at([1]).hook(1)))
            .unwrap()
            .build();
        let mut session = registry.session();
        let ran: Vec<Ran> = (0..4).map(|i| cond(&toy, &mut session, i)).collect();
        assert_eq!(ran.iter().map(|r| r.count(0)).collect::<Vec<_>>(), [1, 0, 0, 1]);
        assert_eq!(session.slots().keys().count(), 2);
        assert_decisions(
            session.log(),
            &[
                "0 cond #0 0..1 compute warmup",
                "0 cond #1 0..1 compute warmup",
                "1 cond #0 0..1 compute scheduled",
                "1 cond #1 0..1 reuse scheduled",
                "2 cond #0 0..1 reuse scheduled",
                "2 cond #1 0..1 reuse outer-cache",
                "3 cond #0 0..1 compute scheduled",
                "3 cond #1 0..1 compute scheduled",
            ],
        );
    }
}

#[test]
fn a_one_block_model_follows_the_rule() {
    // diffusers does not advance its step on a skipped pass of a one-block model; our rule does.
    let curve = "[1.0, 0.99, 0.985, 0.98, 0.99, 0.97, 0.96, 0.99, 0.98, 0.95, 0.97, 0.98]";
    let text =
        format!("strategy = \"magcache\"\nthreshold = 0.09\nmax_skips = 3\nwarmup = 0.2\nratios = {curve}");
    for steps in [12, 28] {
        let trajectory = Trajectory::plain(steps, &[Branch::Cond]);
        let toy = Toy::image(1);
        let mut session = session(&toy, &format!("[[cache]]\n{text}"), &trajectory);
        let ran = run(&toy, Some(&mut session), &trajectory, 1).unwrap();
        let curves =
            toml::from_str::<magcache_core::profile::Curve>(&format!("steps = 12\n[ratios]\ncond = {curve}"));
        let rule = magcache_strategies::magcache::Rule {
            dialect: magcache_strategies::magcache::Dialect::default(),
            threshold: 0.09,
            max_skips: 3,
            retention: magcache_core::Warmup::Fraction(0.2),
            curves: vec![curves.unwrap()],
            assume_steps: None,
        };
        let schedule = rule.schedule(&[Phase::whole(steps)], Branch::Cond);
        assert!(schedule.iter().filter(|s| **s).count() > 3);
        assert_eq!(ran.iter().map(|r| r.count(0) == 0).collect::<Vec<_>>(), schedule);
    }
}

/// FBCache as it is often implemented: the anchor moves in `head`.
#[derive(Debug)]
struct AnchorInHead(f64);

impl TimestepCache for AnchorInHead {
    type State = Option<Tensor>;

    fn window(&self) -> Window {
        Window { front: 1, back: 0 }
    }

    fn head(&self, state: &mut Self::State, _: &Step, _: Branch, x: &Head<'_>) -> Result<Verdict> {
        let now = x.front_residual()?;
        let verdict = match state.as_ref() {
            None => Verdict::compute(Why::NoHistory),
            Some(before) => {
                let metric = x.relative_l1(&now, before)?;
                Verdict::below(metric, self.0).metric(metric)
            }
        };
        if !verdict.reuse {
            *state = Some(now);
        }
        Ok(verdict)
    }
}

#[test]
fn a_reuse_without_anything_to_reuse_leaves_the_state_of_a_computed_pass() {
    let toy = Toy::image(3);
    let steps = Trajectory::plain(8, &[Branch::Cond]);
    let fbcache = strategies().into_iter().find(|s| s.name == "fbcache").unwrap();
    let ours = hook_of(fbcache, "strategy = \"fbcache\"\nthreshold = 0.5\nwarmup = 0", 0, toy.meta(), &steps);
    let naive = CacheHook::new(HookId(0), Box::new(AnchorInHead(0.5)), None, Guards::default());
    // At step 0 an inner cache replaced blocks, so nothing is stored. Step 1 wants to reuse, finds nothing
    // and computes. From step 2 on the distance must be to step 1, whose residual is the one that would be
    // reused.
    let metric = |hook| {
        let builder = HookRegistry::builder(3).ring(0..3, hook).unwrap();
        let mut session = builder.ring(0..3, Arc::new(Inexact { at: vec![0] })).unwrap().build().session();
        let ran: Vec<Ran> = (0..3).map(|i| cond(&toy, &mut session, i)).collect();
        assert!(ran[0].is_whole(3) && ran[1].is_whole(3));
        session.log().records().iter().find(|r| r.step == 2).and_then(|r| r.metric).unwrap()
    };
    let front = |index| {
        let block = plain(&toy, index).blocks[0].clone();
        block.output.sub(&block.input).unwrap().image().unwrap()
    };
    let from = |anchor| metrics::relative_l1(&front(2), &front(anchor)).unwrap();
    // The same values in the same order: equal to the bit.
    assert_eq!(metric(ours).to_bits(), from(1).to_bits());
    assert_eq!(
        metric(Arc::new(naive)).to_bits(),
        from(0).to_bits(),
        "the naive form shows the defect that this test is for"
    );
    assert!(from(0) > from(1));
}

#[test]
fn a_blocks_tuple_is_read_by_its_metadata() {
    let (text_first, image_first) = ([Role::Text, Role::Image], [Role::Image, Role::Text]);
    let steps = Trajectory::plain(6, &[Branch::Cond]);
    let honest = run(&Toy::dual_joint(2, 2, text_first), None, &steps, 1).unwrap();
    for order in [text_first, image_first] {
        let toy = Toy::dual_joint(2, 2, order);
        for (ran, expected) in run(&toy, None, &steps, 1).unwrap().iter().zip(&honest) {
            assert!(same_bits(&ran.output, &expected.output), "streams, {order:?}");
            let tuples = |pass: &mut magcache_core::Pass<'_>| {
                toy.forward_tuples(&ran.input, &ran.step, ran.branch, pass)
            };
            let plain = tuples(&mut magcache_core::Pass::off()).unwrap();
            assert!(same_bits(&plain, &expected.output), "tuples, {order:?}");
        }
        // The same through a cache: storing and applying a residual follows the metadata too.
        let outputs = |toy: &Toy| {
            let registry = HookRegistry::builder(4).ring(0..4, Script::at([1, 3]).hook(0)).unwrap().build();
            let mut session = registry.session();
            let pass = |step: Step| {
                let input = toy.latents(1, &step).unwrap();
                toy.forward_tuples(&input, &step, Branch::Cond, &mut session.pass(step.clone(), Branch::Cond))
            };
            steps.steps().map(pass).collect::<Vec<_>>()
        };
        let cached = outputs(&toy);
        let reference = outputs(&Toy::dual_joint(2, 2, text_first));
        for (a, b) in cached.iter().zip(&reference) {
            assert!(same_bits(a.as_ref().unwrap(), b.as_ref().unwrap()), "cached tuples, {order:?}");
        }
        // A model that declares the wrong order is detected.
        let wrong = if order == text_first { image_first } else { text_first };
        let liar = Toy::dual_joint(2, 2, order).claiming(wrong);
        for (a, b) in outputs(&liar).iter().zip(&reference) {
            let same = matches!((a, b), (Ok(a), Ok(b)) if same_bits(a, b));
            assert!(!same, "the tuple's order had no effect");
        }
    }
}

#[test]
fn a_hook_around_the_forward_knows_what_block_caches_guessed() {
    let toy = Toy::image(3);
    let calls = Calls::default();
    let forecast = Arc::new(SpyForecast::new(calls.clone()));
    let notes: Arc<Mutex<Vec<String>>> = Arc::default();
    let registry = HookRegistry::builder(3)
        .forward(Script::at([3]).hook_with(0, forecast, Guards::default()))
        .ring(0..3, Script::at([1]).hook(1))
        .and_then(|b| b.ring(1..2, Arc::new(Witness("block", Arc::clone(&notes)))))
        .unwrap()
        .build();
    let mut session = registry.session();
    let ran: Vec<Ran> = (0..4).map(|i| cond(&toy, &mut session, i)).collect();
    assert_eq!(calls.take(), [("observe", 0), ("observe", 2), ("predict", 3)]);
    assert_eq!(ran.iter().map(|r| r.blocks.len()).collect::<Vec<_>>(), [3, 0, 3, 0]);
    let expected = (&ran[3].input + (&ran[2].output - &ran[2].input).unwrap()).unwrap();
    assert!(same_bits(&ran[3].output, &expected));
    // Rings around blocks are notified that the whole forward was replaced.
    assert_decisions(
        session.log(),
        &[
            "0 cond #0 0..1 compute warmup",
            "0 cond #1 0..3 compute warmup",
            "1 cond #0 0..1 compute scheduled",
            "1 cond #1 0..3 reuse scheduled",
            "2 cond #0 0..1 compute scheduled",
            "2 cond #1 0..3 compute scheduled",
            "3 cond #0 0..1 reuse scheduled",
            "3 cond #1 0..3 reuse outer-cache",
        ],
    );
    let block = ["block in 1..2", "block out 1..2"];
    let skipped = ["block skipped 1..2"];
    assert_eq!(said(&notes), [&block[..], &skipped, &block, &skipped].concat());
}

#[test]
fn a_pass_is_one_forward() {
    let toy = Toy::image(2);
    let mut session = HookRegistry::builder(2).ring(0..2, Script::at([]).hook(0)).unwrap().build().session();
    let step = Step::plain(0, 4);
    let latents = toy.latents(1, &step).unwrap();
    let mut pass = session.pass(step.clone(), Branch::Cond);
    toy.forward(&latents, &step, Branch::Cond, &mut pass).unwrap();
    let again = toy.forward(&latents, &step, Branch::Cond, &mut pass).unwrap_err();
    assert!(again.to_string().contains("run twice"), "{again}");
}

/// A kernel that writes into its input.
struct Negate;
impl candle_core::InplaceOp1 for Negate {
    fn name(&self) -> &'static str {
        "negate"
    }
    fn cpu_fwd(&self, storage: &mut candle_core::CpuStorage, _: &candle_core::Layout) -> Result<()> {
        if let candle_core::CpuStorage::F32(data) = storage {
            for x in data {
                *x = -*x;
            }
        }
        Ok(())
    }
}

#[test]
fn a_block_that_writes_into_its_input_is_found() {
    let toy = Toy::image(3);
    let step = Step::plain(0, 4);
    let latents = toy.latents(1, &step).unwrap();
    testing::check_model(3, |pass| toy.forward(&latents, &step, Branch::Cond, pass));
    let spoiled = |pass: &mut magcache_core::Pass<'_>| {
        let x = Streams::Image(latents.copy()?);
        let y = pass.run(3, &magcache_core::no_signals, x, |i, x| {
            let y = x.map(|t| t + 1.0)?;
            if i == 1 {
                x.image()?.inplace_op1(&Negate)?;
            }
            Ok(y)
        })?;
        y.into_image()
    };
    let found =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| testing::check_blocks_pure(3, spoiled)));
    let message = *found.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("block 1 changed its input"), "{message}");
}

#[test]
fn no_strategy_of_the_forward_level_is_put_around_blocks() {
    let steps = Trajectory::plain(12, &[Branch::Cond, Branch::Uncond]);
    for info in strategies() {
        let toy = Toy::image(4);
        let session = support::example(info, &toy, &steps);
        let rings = (session.registry().rings().len(), session.registry().forward_rings().len());
        assert_eq!(rings, if info.level == Level::Forward { (0, 1) } else { (1, 0) }, "{}", info.name);
    }
}
