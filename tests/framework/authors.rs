//! What an author meets who caches a model of their own: sizes and modules that differ from the metadata,
//! streams over skips, signals, and a profile made in memory.

use candle_core::Result;
use magcache_core::{StackMeta, calibrate::Recorder, config::Built, hint};

use crate::prelude::*;

/// Weights of the blocks of a stack.
fn weights(blocks: usize) -> Vec<f64> {
    (0..blocks).map(|i| 0.1 + 0.03 * i as f64).collect()
}

/// Tokens `[1, tokens, 8]`, other ones at every step.
fn tokens(count: usize, step: &Step) -> Tensor {
    let value = |i: usize| ((i as f64 * 0.7 + 0.9 * step.sigma).sin() + 0.2) as f32;
    Tensor::from_vec((0..count * 8).map(value).collect(), (1, count, 8), &Device::Cpu).unwrap()
}

fn grow(weight: f64, x: &Tensor) -> Result<Tensor> {
    x + (x.tanh()? * weight)?
}

/// The weights as stacks, the first of dual blocks and the others of joint ones.
fn stacks(all: &[Vec<f64>]) -> Stacks<'_> {
    all.iter().enumerate().fold(Stacks::default(), |stacks, (i, own)| match i {
        0 => stacks.dual(own, |w, image, text| Ok((grow(*w, image)?, grow(-w, text)?))),
        _ => stacks.joint(own, |w, tokens| grow(*w, tokens)),
    })
}

/// A way to hand blocks to the pass, and what it runs on.
type Way = fn(&mut Pass<'_>, &[usize]) -> Result<Tensor>;

fn by_stacks(pass: &mut Pass<'_>, sizes: &[usize]) -> Result<Tensor> {
    let (all, step) = (sizes.iter().map(|n| weights(*n)).collect::<Vec<_>>(), Step::plain(0, 1));
    stacks(&all).run(pass, (tokens(6, &step), tokens(3, &step)))
}

fn by_blocks(pass: &mut Pass<'_>, sizes: &[usize]) -> Result<Tensor> {
    pass.blocks(&weights(sizes[0]), tokens(6, &Step::plain(0, 1)), |weight, x| grow(*weight, x))
}

fn by_run(pass: &mut Pass<'_>, sizes: &[usize]) -> Result<Tensor> {
    let (own, x) = (weights(sizes[0]), Streams::Image(tokens(6, &Step::plain(0, 1))));
    pass.run(sizes[0], &no_signals, x, |i, x| x.map_image(|x| grow(own[i], x)))?.into_image()
}

const WAYS: [(&str, Way); 3] = [("stacks", by_stacks), ("blocks", by_blocks), ("run", by_run)];
const ONE: [&[StackMeta]; 2] = [&[StackMeta::image("blocks", 2)], &[StackMeta::image("blocks", 30)]];
const TWO: &[StackMeta] = &[StackMeta::dual("double", 2), StackMeta::dual("single", 3)];

fn outsider(stacks: &'static [StackMeta]) -> ModelMeta {
    ModelMeta::of("outsider", env!("CARGO_PKG_NAME")).stacks(stacks).meta()
}

/// The message and the hint of a pass with these hooks; `None` if it runs.
fn told(hooks: &Arc<HookRegistry>, way: Way, sizes: &[usize]) -> Option<[String; 2]> {
    let mut session = hooks.session();
    let error = way(&mut session.pass(&Step::plain(0, 1), Branch::Cond), sizes).err()?;
    assert!(session.log().records().is_empty(), "{error}");
    Some([error.to_string(), hint::of(&error).unwrap_or_default()])
}

#[test]
fn other_sizes_than_the_metadata_s_are_an_error_that_names_both() {
    let at = |at: &str| format!("[[cache]]\nstrategy = \"schedule\"\nskip = [2]\nat = \"{at}\"");
    let one = |meta: &'static [StackMeta], ran, plan: &str, said: [&'static str; 2]| {
        WAYS.map(|way| (meta, vec![ran], plan.to_owned(), way, said))
    };
    let two = |sizes: &[usize], ran| {
        ["", &at("all")].map(|plan| {
            let said = [ran, "\"double\" of 2 blocks, \"single\" of 3 blocks"];
            (TWO, sizes.to_vec(), plan.to_owned(), WAYS[0], said)
        })
    };
    let (four, six) = ("the model runs 4 blocks", "the model runs 6 blocks");
    let cases = [
        one(ONE[0], 4, &at("all"), [four, "\"blocks\" of 2 blocks"]).to_vec(),
        one(ONE[0], 4, "", [four, "\"blocks\" of 2 blocks"]).to_vec(),
        one(ONE[1], 6, &at("20..30"), [six, "\"blocks\" of 30 blocks"]).to_vec(),
        one(ONE[1], 6, "", [six, "\"blocks\" of 30 blocks"]).to_vec(),
        two(&[3, 2], "the model runs 3 + 2 blocks").to_vec(),
        two(&[2], "the model runs 2 blocks").to_vec(),
        two(&[2, 2, 1], "the model runs 2 + 2 + 1 blocks").to_vec(),
    ];
    for (stacks, sizes, plan, (name, way), said) in cases.concat() {
        let (meta, place) = (outsider(stacks), format!("{name} of {sizes:?}: {plan}"));
        let [message, hint] = told(&build(&plan, &meta, ANY).unwrap().registry, way, &sizes).expect(&place);
        let all = ["\"outsider\"", said[0], said[1]];
        assert!(all.iter().all(|part| message.contains(part)), "{place}: {message}");
        assert!(hint.contains("meta.with_blocks(&[…])"), "{place}: {hint}");
        // With the sizes that run it fits, but for a range that is not there any more.
        if sizes.len() != stacks.len() {
            continue;
        }
        match build(&plan, &meta.with_blocks(&sizes), ANY) {
            Ok(built) => assert_eq!(told(&built.registry, way, &sizes), None, "{place}"),
            Err(error) => {
                assert!(error.to_string().contains("blocks 20..30 of a model with 6 blocks"), "{error}");
                assert_eq!(error.hint().as_deref(), Some("name blocks in 0..6"), "{place}");
            }
        }
    }
}

#[test]
fn hooks_built_by_hand_know_the_number_of_blocks() {
    let cases: [(Way, &[usize], &str); 4] = [
        (by_stacks, &[2, 2], "the model runs 2 + 2 blocks"),
        (by_stacks, &[6], "the model runs 6 blocks"),
        (by_blocks, &[4], "the model runs 4 blocks"),
        (by_run, &[6], "the model runs 6 blocks"),
    ];
    for (way, sizes, ran) in cases {
        let [none, one] = [rings(5, []), rings(5, [(0..5, Script::at([]).hook(0))])]
            .map(magcache_core::chain::Builder::build);
        for hooks in [none, one] {
            let [message, hint] = told(&hooks, way, sizes).expect(ran);
            assert_eq!(message.lines().next(), Some(format!("{ran}, its hooks are built for 5").as_str()));
            assert!(hint.contains("HookRegistry::builder(n)"), "{hint}");
        }
        assert_eq!(told(&rings(sizes.iter().sum(), []).build(), way, sizes), None);
    }
    // The sizes of several stacks are theirs alone.
    assert_eq!(told(&rings(5, []).build(), by_stacks, &[2, 3]), None);
}

#[test]
fn a_model_without_sizes_runs_and_records_nothing() {
    let meta = ModelMeta::of("outsider", env!("CARGO_PKG_NAME")).meta();
    let hint = "give the model's sizes: `meta.with_blocks(&[…])`";
    let plan = "[[cache]]\nstrategy = \"schedule\"\nskip = [2]";
    let error = build(plan, &meta, ANY).unwrap_err();
    assert_eq!(error.hint().as_deref(), Some(hint), "{error}");
    let error = CachePlan::parse(plan).unwrap().decisions(&meta, ANY, &[]).unwrap_err();
    assert_eq!(error.hint().as_deref(), Some(hint), "{error}");
    let [message, _] = told(&Recorder::new(&meta).registry(), by_blocks, &[3]).expect("no sizes");
    assert!(message.contains("runs 3 blocks") && message.contains("\"blocks\" of 0 blocks"), "{message}");
}

/// A model whose blocks run these modules.
fn with_modules(hooks: &Arc<HookRegistry>, names: &[&str]) -> Result<Tensor> {
    let (own, step) = (weights(2), Step::plain(0, 1));
    Stacks::default()
        .streams(&own, |_, weight, mut x, modules| {
            for name in names {
                x = modules.module(name, x, |x| x.map_image(|x| grow(*weight, x)))?;
            }
            Ok(x)
        })
        .run(&mut hooks.session().pass(&step, Branch::Cond), tokens(4, &step))
}

#[test]
fn modules_that_the_metadata_and_the_blocks_name_differently_are_found() {
    let meta = ModelMeta { modules: (&["attn", "mixer"]).into(), ..outsider(ONE[0]) };
    let plan = "[[cache]]\nstrategy = \"schedule\"\nskip = [2]\nat = \"mixer\"";
    let hooks = build(plan, &meta, ANY).unwrap().registry;
    let by_hand = HookRegistry::builder(2).module("mixer", Script::at([]).hook(0)).build();
    let listed = "[\"attn\", \"mixer\"]";
    let unlisted = ["runs the module \"mixr\"", "\"outsider\"", listed, "list it in the modules"];
    let idle = ["the module \"mixer\"", "no block of \"outsider\" runs it", "", "remove it from the modules"];
    let idle_by_hand = ["the module \"mixer\"", "but no block runs it", "", "remove the hook"];
    for (hooks, names, [first, second, third, todo]) in [
        (&hooks, &["mixr", "mixer"][..], unlisted),
        (&hooks, &["attn", "mixr"], unlisted),
        (&hooks, &["attn"], idle),
        (&hooks, &[], idle),
        (&by_hand, &["attn"], idle_by_hand),
    ] {
        let error = with_modules(hooks, names).expect_err(first);
        let (message, hint) = (error.to_string(), hint::of(&error).unwrap_or_default());
        assert!([first, second, third].iter().all(|part| message.contains(part)), "{message}");
        assert!(hint.contains(todo), "{hint}");
    }
    with_modules(&hooks, &["attn", "mixer"]).unwrap();
    // Also without a cache around a module, but then blocks may leave some out.
    for plan in ["", "[[cache]]\nstrategy = \"schedule\"\nskip = [2]"] {
        let hooks = build(plan, &meta, ANY).unwrap().registry;
        with_modules(&hooks, &["attn"]).unwrap();
        let error = with_modules(&hooks, &["attn", "mixr"]).unwrap_err().to_string();
        assert!(error.contains("runs the module \"mixr\"") && error.contains(listed), "{error}");
    }
    with_modules(&HookRegistry::builder(2).build(), &["mixr"]).unwrap();
}

/// Plans of which each skips something in 12 steps.
fn skipping() -> Vec<String> {
    let schedule = |keys: &str| format!("[[cache]]\nstrategy = \"schedule\"\nskip = [4, 6, 7, 9]\n{keys}");
    let all = ["", "at = \"1..3\"", "forecast = { type = \"output\" }", "forecast = { type = \"taylor\" }"];
    let others =
        ["fbcache\"\nthreshold = 0.5", "dbcache\"\nfront = 1\nback = 1\nthreshold = 0.5\nwarmup = 2"];
    let others = others.map(|keys| format!("[[cache]]\nstrategy = \"{keys}"));
    all.map(schedule).into_iter().chain(others).collect()
}

#[test]
fn streams_that_come_out_are_those_that_went_in() {
    let (run, own) = (guided(12), [weights(2), weights(2)]);
    let metas = [false, true].map(|after| {
        let meta = ModelMeta::of("outsider", "tests").stacks(TWO);
        if after { meta.text_after().meta() } else { meta.meta() }.with_blocks(&[2, 2])
    });
    for plan in skipping() {
        let mut image = session(&plan, &outsider(ONE[0]).with_blocks(&[4]), &run);
        for step in run.steps() {
            let x = Streams::Image(tokens(6, &step));
            let all = weights(4);
            let mut pass = image.pass(&step, Branch::Cond);
            let y = pass.run(4, &no_signals, x, |i, x| x.map_image(|x| grow(all[i], x))).unwrap();
            let Streams::Image(y) = y else { panic!("{plan}: {y:?} at {}", step.index) };
            assert_eq!(y.dims(), [1, 6, 8]);
        }
        assert!(image.log().records().iter().any(|record| record.reused), "{plan}");
        for (meta, joint) in metas.iter().flat_map(|meta| [(meta, false), (meta, true)]) {
            let meta = if joint { meta.clone() } else { meta.clone().with_blocks(&[4, 0]) };
            let dual = [weights(4), weights(0)];
            let mut session = session(&plan, &meta, &run);
            for step in run.steps() {
                let mut pass = session.pass(&step, Branch::Cond);
                let blocks = if joint { &own } else { &dual };
                let y = stacks(blocks).run_streams(&mut pass, (tokens(6, &step), tokens(3, &step))).unwrap();
                // Every variant, without a wildcard: an author has no other to expect.
                match &y {
                    Streams::Image(_) => panic!("{plan}: the text is lost at {}", step.index),
                    Streams::Dual { image, text } => {
                        assert_eq!([image.dims(), text.dims()], [[1, 6, 8], [1, 3, 8]]);
                    }
                    Streams::Joint { tokens, text } => {
                        assert!(joint, "{plan}: no block joins the streams");
                        assert_eq!((tokens.dims(), text), (&[1, 9, 8][..], &(0..3)));
                    }
                }
                assert_eq!(y.text().unwrap().map(|text| text.dims().to_vec()), Some(vec![1, 3, 8]));
                assert_eq!(y.into_image().unwrap().dims(), [1, 6, 8]);
            }
            assert!(session.log().records().iter().any(|record| record.reused), "{plan}");
        }
    }
}

#[test]
fn signals_are_those_that_the_metadata_names() {
    let meta = outsider(ONE[0]);
    assert_eq!((meta.origin, meta.problems(), meta.signals.len()), ("magcache-tests", Vec::new(), 0));
    let plan = "[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"";
    let error = build(plan, &meta, ANY).unwrap_err();
    let says = |text: &str, parts: [&str; 2]| assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    says(&error.to_string(), ["\"outsider\"", "ModulatedInput"]);
    says(&error.hint().unwrap_or_default(), ["it shows none", "fbcache"]);
    // Named in the metadata, and not shown to the pass.
    let meta = ModelMeta { signals: (&[Signal::ModulatedInput]).into(), ..meta };
    let [message, hint] = told(&build(plan, &meta, ANY).unwrap().registry, by_stacks, &[2]).unwrap();
    says(&message, ["does not show its modulated-input", ""]);
    says(&hint, ["Stacks::signals", "the metadata"]);
}

/// A run of a model with a signal, and the latents at its end.
fn denoise(session: &mut Session, run: &Trajectory) -> Tensor {
    let (own, mut x) = (weights(3), tokens(6, &Step::plain(0, 1)));
    for (step, sigmas) in run.steps().zip(run.sigmas.windows(2)) {
        let mut predict = |branch: Branch| {
            let scale = if branch == Branch::Cond { 1.0 } else { 0.7 };
            let modulated = |x: &Tensor| x.affine(1.0 + 0.4 * step.sigma, 0.1 * step.sigma);
            Stacks::default()
                .image(&own, |w, x| x + (x.affine(scale, step.sigma)?.tanh()? * *w)?)
                .signals(|_, x| modulated(&x.image()?))
                .run(&mut session.pass(&step, branch), x.clone())
                .unwrap()
        };
        let (cond, uncond) = (predict(Branch::Cond), predict(Branch::Uncond));
        let velocity = (&uncond + ((cond - &uncond).unwrap() * 3.0).unwrap()).unwrap();
        x = (x + (velocity * (sigmas[1] - sigmas[0])).unwrap()).unwrap();
    }
    x
}

#[test]
fn a_model_is_calibrated_and_cached_without_a_file() {
    magcache_models::link();
    let run = guided(20);
    let meta =
        ModelMeta { signals: (&[Signal::ModulatedInput]).into(), ..outsider(ONE[0]).with_blocks(&[3]) };
    let recorder = Recorder::new(&meta);
    let dense = denoise(&mut recorder.registry().session(), &run);
    assert!(same_bits(&dense, &denoise(&mut rings(3, []).build().session(), &run)));
    let profile = Profile::of(&meta, &run, &recorder.recording());
    assert_eq!((&*profile.name, profile.model.as_deref()), ("outsider", Some("outsider")));
    assert_eq!(Profile::parse(&profile.to_toml().unwrap(), "mine").unwrap(), profile);

    let table = |keys: &str| format!("[[cache]]\nstrategy = \"{keys}\n");
    let with = |meta: &ModelMeta, keys: &str, profiles: &[Profile]| {
        magcache_strategies::link();
        CachePlan::parse(&table(keys)).unwrap().build_with(meta, Some(&run), profiles)
    };
    let log = |built: std::result::Result<Built, ConfigError>| {
        let mut session = built.unwrap().registry.session();
        denoise(&mut session, &run);
        session.log().clone()
    };
    let other = Profile {
        name: "other".to_owned(),
        curves: Profile::find("flux.1-dev").unwrap().curves,
        ..Profile::default()
    };
    let default = ModelMeta { profiles: (&["flux.1-dev"]).into(), ..meta.clone() };
    for keys in ["magcache\"\nthreshold = 0.3", "teacache\"\nthreshold = 0.3"] {
        let own = log(with(&meta, keys, std::slice::from_ref(&profile)));
        assert!(own.records().iter().any(|record| record.reused), "{keys} skips nothing");
        // By its name, wherever it is in the list; and before the model's own default.
        let named = format!("{keys}\nprofile = \"outsider\"");
        assert_eq!(log(with(&meta, &named, &[other.clone(), profile.clone()])), own, "{keys}");
        assert_eq!(log(with(&default, keys, std::slice::from_ref(&profile))), own, "{keys}");
        assert_ne!(log(with(&default, "magcache\"\nthreshold = 0.3", &[])), own, "{keys}");
        match with(&meta, keys, &[]) {
            Err(none) => assert!(none.hint().unwrap_or_default().contains("name"), "{none}"),
            Ok(built) => assert!(built.warnings[0].message.contains("no fit of outsider is known")),
        }
        let unknown = format!("{keys}\nprofile = \"outsidr\"");
        let error = with(&meta, &unknown, &[other.clone(), profile.clone()]).unwrap_err();
        assert!(error.to_string().contains("unknown profile \"outsidr\""), "{error}");
        assert_eq!(error.hint().as_deref(), Some("did you mean \"outsider\"?"));
        // The first profile has a curve and no fit.
        if keys.starts_with("magcache") {
            assert_ne!(log(with(&meta, keys, &[other.clone(), profile.clone()])), own);
        }
    }
}

#[test]
fn a_profile_of_another_model_is_warned_about() {
    magcache_models::link();
    magcache_strategies::link();
    let (run, meta) = (guided(20), outsider(ONE[0]));
    let warned = |meta: &ModelMeta, keys: &str, profiles: &[Profile]| {
        let plan = CachePlan::parse(&format!("[[cache]]\nstrategy = {keys}")).unwrap();
        let built = plan.build_with(meta, Some(&run), profiles).unwrap().warnings;
        assert_eq!(plan.decisions(meta, Some(&run), profiles).unwrap().warnings, built);
        built
    };
    let flux = Profile::find("flux.1-dev").unwrap();
    let nobodys = Profile { model: None, ..flux.clone() };
    let by_name = "\"magcache\"\nthreshold = 0.1\nprofile = \"flux.1-dev\"";
    let first = "\"magcache\"\nthreshold = 0.1";
    let flux = std::slice::from_ref(&flux);
    for (keys, profiles) in [(by_name, &[][..]), (by_name, flux), (first, flux)] {
        let warnings = warned(&meta, keys, profiles);
        let [own] = &*warnings else { panic!("{keys}: {warnings:?}") };
        let said = "the profile \"flux.1-dev\" is of \"flux.1-dev\", the model is \"outsider\"";
        assert_eq!((&*own.message, own.fatal), (said, false));
        assert!(
            own.place.contains("magcache") && own.hint.as_deref().unwrap_or_default().contains("Recorder")
        );
    }
    let listed = ModelMeta { profiles: (&["flux.1-dev"]).into(), ..meta.clone() };
    let named = ModelMeta { name: "flux.1-dev".into(), ..meta.clone() };
    let fbcache = "\"fbcache\"\nthreshold = 0.1";
    // Listed, of the model, not read, or not said of which.
    for (meta, keys, profiles) in [
        (&listed, by_name, flux),
        (&listed, first, &[]),
        (&named, first, flux),
        (&meta, fbcache, flux),
        (&meta, first, &[nobodys]),
    ] {
        assert_eq!(warned(meta, keys, profiles), [], "{} {keys}", meta.name);
    }
}

#[test]
fn a_forward_that_hands_no_blocks_to_its_pass_is_told_so() {
    const STACKS: &[StackMeta] = &[StackMeta::image("blocks", 3)];
    let (meta, keys) = (outsider(STACKS), "strategy = \"schedule\"\nskip = [1]");
    for (also, around) in
        [("", false), ("[[cache]]\nstrategy = \"schedule\"\nskip = []\nat = \"forward\"\n", true)]
    {
        let plan = CachePlan::parse(&format!("{also}[[cache]]\n{keys}")).unwrap();
        let hooks = plan.build(&meta, None).unwrap().registry;
        assert_eq!(hooks.forward_rings().len(), usize::from(around));
        let x = Tensor::ones((1, 2, 4), DType::F32, &Device::Cpu).unwrap();
        let mut session = hooks.session();
        let mut forward = |blocks: bool| {
            session.pass(&Step::plain(0, 4), Branch::Cond).forward(x.clone(), |x, pass| {
                if blocks { pass.blocks(&[1.0, 2.0, 3.0], x, |weight, x| x * *weight) } else { x * 6.0 }
            })
        };
        let error = forward(false).unwrap_err();
        assert!(error.to_string().contains("the forward handed none to its pass"), "{error}");
        assert!(magcache_core::hint::of(&error).unwrap().contains("at = \"forward\""));
        assert!(forward(true).is_ok());
    }
}

#[test]
fn teacache_without_a_fit_counts_distances_as_they_are_and_says_so() {
    let (toy, run_of_twelve) = (dual(2, 3), guided(12));
    let table = "[[cache]]\nstrategy = \"teacache\"\nthreshold = 0.3\n";
    let [none, linear] = ["", "policy = \"linear\""]
        .map(|key| build(&format!("{table}{key}"), toy.meta(), &run_of_twelve).unwrap());
    let [warning] = &none.warnings[..] else { panic!("{:?}", none.warnings) };
    let said = format!("no fit of {} is known: distances count as they are", toy.meta().name);
    assert_eq!((warning.message.as_str(), warning.fatal), (&*said, false));
    assert!(linear.warnings.is_empty(), "{:?}", linear.warnings);
    let [a, b] = [none, linear]
        .map(|built| run(&toy, Some(&mut built.registry.session()), &run_of_twelve, 1).unwrap());
    assert_same(&a, &b, "teacache");
}
