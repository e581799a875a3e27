//! Several hooks: on one block, on ranges, on a one-block model, nested and overlapping.

use candle_core::Result;
use magcache_core::testing::Inexact;
use magcache_strategies::magcache::Dialect;

use crate::prelude::*;

/// Witnesses with their ranges, outermost first.
type Rings<'a> = &'a [(&'static str, Range<usize>)];

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
fn nested_disjoint_and_partly_overlapping_ranges() {
    let cases: [(Toy, Rings<'_>, &str); 6] = [
        // The first ring is the outermost.
        (
            Toy::image(1),
            &[("a", 0..1), ("b", 0..1), ("c", 0..1)],
            "a<0..1 b<0..1 c<0..1 c>0..1 b>0..1 a>0..1",
        ),
        (
            Toy::image(3),
            &[("a", 0..1), ("b", 0..1), ("c", 0..1)],
            "a<0..1 b<0..1 c<0..1 c>0..1 b>0..1 a>0..1",
        ),
        (dual(2, 4), &[("a", 0..6), ("b", 2..4)], "a<0..6 b<2..4 b>2..4 a>0..6"),
        (dual(2, 4), &[("a", 0..2), ("b", 4..6)], "a<0..2 a>0..2 b<4..6 b>4..6"),
        // The outer ring stays whole; the inner one is entered once inside it and once after it.
        (dual(2, 4), &[("a", 0..4), ("b", 2..6)], "a<0..4 b<2..4 b>2..4 a>0..4 b<4..6 b>4..6"),
        // The inner ring is wider: it is split into parts and never surrounds the outer ring.
        (dual(2, 4), &[("a", 2..4), ("b", 0..6)], "b<0..2 b>0..2 a<2..4 b<2..4 b>2..4 a>2..4 b<4..6 b>4..6"),
    ];
    for (toy, rings, expected) in cases {
        let (mut session, notes) = watched(&toy, rings);
        let ran = cond(&toy, &mut session, 0);
        let entered = said(&notes).join(" ").replace(" in ", "<").replace(" out ", ">");
        assert_eq!(entered, expected);
        assert!(ran.is_whole(toy.blocks()) && same_bits(&ran.output, &plain(&toy, 0).output));
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
    let x = Tensor::zeros((1, 2, 3), DType::F32, &Device::Cpu).unwrap();
    // The last range is skipped too, or computed; the first one is followed by a hook, or by a block.
    for (last, at) in [(1, 2..4), (7, 3..4)] {
        let given = Arc::new(Given::default());
        let watched = (at.clone(), Arc::clone(&given) as Arc<dyn BlockHook>);
        let (first, last_ring) = ((0..2, Script::at([1]).hook(0)), (4..6, Script::at([last]).hook(2)));
        let registry = rings(6, [first, watched, last_ring]).build();
        let step = |session: &mut Session, index| {
            let mut pass = session.pass(&Step::plain(index, 8), Branch::Cond);
            Stacks::default().image(&[(); 6], |(), x| x + 1.0).run_lazy(&mut pass, x.clone()).unwrap()
        };
        let mut session = registry.session();
        assert!(step(&mut session, 0).into_image_terms().unwrap().1.is_none());
        let out = step(&mut session, 1);
        assert_eq!(out.clone().into_image_terms().unwrap().1.is_some(), last == 1);
        assert!(same_bits(&out.added().unwrap().streams.into_image().unwrap(), &(&x + 6.0).unwrap()));
        assert_eq!(*given.0.lock().unwrap(), [(at.clone(), true), (at, true)]);

        let mut session = registry.session();
        for index in [0, 1] {
            let mut pass = session.pass(&Step::plain(index, 8), Branch::Cond);
            let out = pass.run(6, &no_signals, Streams::Image(x.clone()), |_, x| x.map_image(|x| x + 1.0));
            let Streams::Image(out) = out.unwrap() else { panic!("a model of one stream got another kind") };
            assert!(same_bits(&out, &(&x + 6.0).unwrap()));
        }
    }
}

#[test]
fn observers_see_every_pass() {
    let toy = Toy::image(5);
    let notes: Arc<Mutex<Vec<String>>> = Arc::default();
    let witness = |name| -> Arc<dyn BlockHook> { Arc::new(Witness(name, Arc::clone(&notes))) };
    let blocks = rings(
        5,
        [
            (0..5, Script::at([2]).window(1, 2).hook(0)),
            (0..5, Script::at(1..8).hook(1)),
            (0..1, witness("first")),
            (2..3, witness("third")),
        ],
    );
    let mut session = blocks.forward(Script::at([3]).hook(2)).forward(witness("whole")).build().session();
    let executed: Vec<Vec<usize>> =
        (0..4).map(|i| cond(&toy, &mut session, i).blocks.iter().map(|b| b.block).collect()).collect();
    // Step 1: the inner cache replaces only the middle. Step 2: the outer one replaces it. The front and the
    // back are forced through both. Step 3: the whole forward is replaced.
    assert_eq!(executed, [vec![0, 1, 2, 3, 4], vec![0, 3, 4], vec![0, 3, 4], vec![]]);
    let first = ["whole in 0..1", "first in 0..1 forced", "first out 0..1"];
    let computed = [&first[..], &["third in 2..3", "third out 2..3", "whole out 0..1"]].concat();
    let replaced = [&first[..], &["third skipped 2..3", "whole out 0..1"]].concat();
    let skipped = vec!["whole skipped 0..1", "first skipped 0..1", "third skipped 2..3"];
    assert_eq!(said(&notes), [computed, replaced.clone(), replaced, skipped].concat());
}

#[test]
fn nothing_is_learned_from_a_guess() {
    for (forward, guessed, expected) in [
        (false, 2, [("observe", 0), ("observe", 1), ("predict", 3)]),
        (true, 1, [("observe", 0), ("observe", 2), ("predict", 3)]),
    ] {
        let (toy, calls) = (Toy::image(4), Calls::default());
        let forecast = Arc::new(SpyForecast::new(calls.clone()));
        let outer = Script::at([3]).hook_with(0, forecast, Guards::default());
        let inner = (1..3, Script::at([guessed]).hook(1));
        let builder =
            if forward { rings(4, [inner]).forward(outer) } else { rings(4, [(0..4, outer), inner]) };
        let mut session = builder.build().session();
        for index in 0..4 {
            cond(&toy, &mut session, index);
        }
        assert_eq!(calls.take(), expected);
    }
}

#[test]
fn a_one_block_model_follows_the_rule() {
    // diffusers does not advance its step on a skipped pass of a one-block model; our rule does.
    let curve = "[1.0, 0.99, 0.985, 0.98, 0.99, 0.97, 0.96, 0.99, 0.98, 0.95, 0.97, 0.98]";
    let text =
        format!("strategy = \"magcache\"\nthreshold = 0.09\nmax_skips = 3\nwarmup = 0.2\nratios = {curve}");
    for steps in [12, 28] {
        let trajectory = alone(steps);
        let toy = Toy::image(1);
        let mut session = session(&format!("[[cache]]\n{text}"), toy.meta(), &trajectory);
        let ran = run(&toy, Some(&mut session), &trajectory, 1).unwrap();
        let curves = vec![toml::from_str(&format!("steps = 12\n[ratios]\ncond = {curve}")).unwrap()];
        let rule = rule(Dialect::default(), (0.09, 3, 0.2), curves);
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
    let steps = alone(8);
    let fbcache = strategy("fbcache");
    let ours = hook_of(fbcache, "strategy = \"fbcache\"\nthreshold = 0.5\nwarmup = 0", 0, toy.meta(), &steps);
    let naive = CacheHook::new(HookId(0), Box::new(AnchorInHead(0.5)), None, Guards::default());
    // At step 0 an inner cache replaced blocks, so nothing is stored. Step 1 wants to reuse, finds nothing
    // and computes. From step 2 on the distance must be to step 1, whose residual is the one that would be
    // reused.
    let metric = |hook| {
        let inner = Arc::new(Inexact { at: vec![0] });
        let mut session = rings(3, [(0..3, hook), (0..3, inner)]).build().session();
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
    let steps = alone(6);
    let honest = run(&Toy::dual_joint(2, 2, text_first), None, &steps, 1).unwrap();
    for order in [text_first, image_first] {
        let toy = Toy::dual_joint(2, 2, order);
        for (ran, expected) in run(&toy, None, &steps, 1).unwrap().iter().zip(&honest) {
            assert!(same_bits(&ran.output, &expected.output), "streams, {order:?}");
            let tuples = |pass: &mut Pass<'_>| toy.forward_tuples(&ran.input, &ran.step, ran.branch, pass);
            let plain = tuples(&mut Pass::off()).unwrap();
            assert!(same_bits(&plain, &expected.output), "tuples, {order:?}");
        }
        // The same through a cache: storing and applying a residual follows the metadata too.
        let outputs = |toy: &Toy| {
            let mut session = around(4, Script::at([1, 3]).hook(0));
            let pass = |step: Step| {
                let input = toy.latents(1, &step).unwrap();
                toy.forward_tuples(&input, &step, Branch::Cond, &mut session.pass(&step, Branch::Cond))
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
fn a_pass_is_one_forward() {
    let toy = Toy::image(2);
    let mut session = around(2, Script::at([]).hook(0));
    let step = Step::plain(0, 4);
    let latents = toy.latents(1, &step).unwrap();
    let mut pass = session.pass(&step, Branch::Cond);
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
    let spoiled = |pass: &mut Pass<'_>| {
        let x = Streams::Image(latents.copy()?);
        let y = pass.run(3, &no_signals, x, |i, x| {
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
    let steps = guided(12);
    for info in strategies() {
        let toy = Toy::image(4);
        let session = example(info, &toy, &steps);
        let rings = (session.registry().rings().len(), session.registry().forward_rings().len());
        assert_eq!(rings, if info.level == Level::Forward { (0, 1) } else { (1, 0) }, "{}", info.name);
    }
}
