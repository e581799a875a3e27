//! Caches of whole forwards: they decide and rebuild as their publishers' code does, work together with
//! caches of blocks, and are refused where they make no sense.

mod support;

use std::{collections::HashMap, path::PathBuf};

use candle_core::{Device, Tensor};
use magcache_core::{
    Branch, CachePlan, ConfigError, ModelMeta, Session, Step, Trajectory, Why, metrics, no_signals,
    state::HookId,
    testing::{Ran, Toy, run, same_bits},
};
use magcache_models as _;
use magcache_strategies::cfg_cache::low_pass;
use serde_json::Value;
use support::{Witness, said, session};

const BOTH: [Branch; 2] = [Branch::Cond, Branch::Uncond];

/// The output of `tests/reference/forward_caches.py`.
struct Published {
    timesteps: Vec<f64>,
    cases: Vec<Value>,
    tensors: HashMap<String, Tensor>,
}

impl Published {
    fn read() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/forward_caches");
        let report = std::fs::read_to_string(folder.join("cases.json")).unwrap();
        let report: Value = serde_json::from_str(&report).unwrap();
        let numbers = |v: &Value| v.as_array().unwrap().iter().map(|t| t.as_f64().unwrap()).collect();
        Self {
            timesteps: numbers(&report["timesteps"]),
            cases: report["cases"].as_array().unwrap().clone(),
            tensors: candle_core::safetensors::load(folder.join("runs.safetensors"), &Device::Cpu).unwrap(),
        }
    }

    /// Latents or a prediction at one step, `[1, channels, frames, height, width]`.
    fn at(&self, name: &str, step: usize) -> Tensor {
        self.tensors[name].narrow(0, step, 1).unwrap()
    }

    fn trajectory(&self) -> Trajectory {
        let plain = Trajectory::plain(self.timesteps.len(), &BOTH);
        Trajectory { timesteps: self.timesteps.clone(), ..plain }
    }

    /// Runs the same states through our hooks: the output of each step, and the session.
    fn replay(&self, table: &str) -> (HashMap<(usize, Branch), Tensor>, Session) {
        magcache_strategies::link();
        let (model, run) = (ModelMeta::simple("toy", 1), self.trajectory());
        let plan = CachePlan::parse(table).unwrap();
        let mut session = plan.build(&model, Some(&run)).unwrap().registry.session();
        let mut out = HashMap::new();
        for step in run.steps() {
            for branch in BOTH {
                let latents = self.at("latents", step.index);
                let network =
                    |_, _: &mut magcache_core::Pass<'_>| Ok(self.at(&branch.to_string(), step.index));
                let y = session.pass(step.clone(), branch).forward(latents, network).unwrap();
                out.insert((step.index, branch), y);
            }
        }
        (out, session)
    }
}

/// A case as a configuration with one `[[cache]]` table.
fn table(case: &Value) -> String {
    let mut table: toml::Table = serde_json::from_value(case["keys"].clone()).unwrap();
    let strategy = case["strategy"].as_str().unwrap();
    table.insert("strategy".to_owned(), strategy.into());
    if strategy == "sencache" {
        // The published script for Wan2.1 protects only the first step.
        table.insert("last_steps".to_owned(), 0.into());
    }
    toml::Table::from_iter([("cache".to_owned(), toml::Value::Array(vec![table.into()]))]).to_string()
}

#[test]
fn decisions_and_outputs_are_those_of_the_published_code() {
    let published = Published::read();
    let mut compared = 0;
    for case in &published.cases {
        let name = case["name"].as_str().unwrap();
        let (out, session) = published.replay(&table(case));
        for branch in BOTH {
            let skipped: Vec<usize> = session.log().reused(HookId(0), branch).collect();
            assert_eq!(serde_json::json!(skipped), case["skipped"][branch.to_string()], "{name} {branch}");
            let Some(expected) = published.tensors.get(&format!("{name}.{branch}")) else { continue };
            for step in 0..published.timesteps.len() {
                // Where the network ran, the output is its prediction.
                let expected = match skipped.iter().position(|s| *s == step) {
                    Some(row) => expected.narrow(0, row, 1).unwrap(),
                    None => published.at(&branch.to_string(), step),
                };
                let off = metrics::worst(metrics::rms_difference(&out[&(step, branch)], &expected).unwrap());
                assert!(off < 1e-6, "{name} {branch}, step {step}: {off}");
                compared += 1;
            }
        }
    }
    // Three cases of EasyCache skip both branches, three of CFG cache skip one.
    assert_eq!(compared, (3 * 2 + 3) * 30);
}

#[test]
fn easycache_adds_the_residual_and_sencache_repeats_the_prediction() {
    let published = Published::read();
    let one = |strategy: &str| published.cases.iter().find(|c| c["strategy"] == strategy).unwrap().clone();
    for (strategy, residual) in [("easycache", true), ("sencache", false)] {
        let (out, session) = published.replay(&table(&one(strategy)));
        let record = session.log().records().iter().find(|r| r.reused).unwrap();
        let (step, branch) = (record.step, record.branch);
        let before = (0..step).rev().find(|i| {
            let log = session.log().records().iter();
            log.filter(|r| r.step == *i && r.branch == branch).all(|r| !r.reused)
        });
        let then = &published.at(&branch.to_string(), before.unwrap());
        let moved = (published.at("latents", step) - published.at("latents", before.unwrap())).unwrap();
        let expected = if residual { (then + moved).unwrap() } else { then.clone() };
        let off = metrics::rms_difference(&out[&(step, branch)], &expected).unwrap()[0];
        assert!(off < 1e-6, "{strategy}, step {step}: {off}");
    }
}

#[test]
fn low_and_high_frequencies_of_a_difference_add_up_to_it() {
    let published = Published::read();
    let difference = (published.at("uncond", 4) - published.at("cond", 4)).unwrap();
    let low = low_pass(&difference).unwrap();
    let high = (&difference - &low).unwrap();
    // The low pass is a projection: it keeps what it has already passed and removes all of the rest.
    let zero = low.zeros_like().unwrap();
    for (what, a, b) in [("low", &low_pass(&low).unwrap(), &low), ("high", &low_pass(&high).unwrap(), &zero)]
    {
        assert!(metrics::rms_difference(a, b).unwrap()[0] < 1e-6, "{what}");
    }
    assert!(metrics::rms_difference(&low, &zero).unwrap()[0] > 1e-3, "there is something low");
    assert!(metrics::rms_difference(&high, &zero).unwrap()[0] > 1e-3, "there is something high");
}

/// Skips 4 of 5 unconditional passes outside, and most blocks inside.
const GUIDANCE_AND_BLOCKS: &str = "
    [[cache]]
    strategy = \"cfg-cache\"
    interval = 4
    start = 2
    [[cache]]
    strategy = \"magcache\"
    threshold = 0.3
    max_skips = 2
    warmup = 2
    ratios = [1.0, 0.99, 0.985, 0.99, 0.98, 0.985, 0.99, 0.98, 0.98, 0.98, 0.97, 0.96]
";

#[test]
fn a_cfg_cache_around_magcache_on_blocks() {
    let toy = Toy::image(4);
    let steps = Trajectory::plain(16, &BOTH);
    let mut session = session(&toy, GUIDANCE_AND_BLOCKS, &steps);
    let ran = run(&toy, Some(&mut session), &steps, 1).unwrap();
    let plain = run(&toy, None, &steps, 1).unwrap();
    let (mut rebuilt, mut skipped, mut both) = (0, 0, 0);
    for (a, b) in ran.iter().zip(&plain) {
        let of = |hook| a.records.iter().find(|r| r.hook == HookId(hook)).unwrap();
        let (outer, inner) = (of(0), of(1));
        let at = format!("step {} {}: {:?}", a.step.index, a.branch, a.records);
        assert_eq!(a.records.len(), 2, "{at}");
        // A skipped pass is reported to the hooks inside; they decide nothing.
        assert_eq!(outer.reused, inner.why == Why::OuterCache, "{at}");
        assert!(!outer.reused || (a.blocks.is_empty() && a.branch == Branch::Uncond), "{at}");
        assert_eq!(a.is_whole(4), !outer.reused && !inner.reused, "{at}");
        assert!(!a.is_whole(4) || same_bits(&a.output, &b.output), "{at}");
        rebuilt += usize::from(outer.reused);
        skipped += usize::from(inner.reused && !outer.reused);
        both += usize::from(a.is_whole(4));
    }
    assert!(rebuilt > 3 && skipped > 3 && both > 3, "{rebuilt} rebuilt, {skipped} skipped, {both} whole");
    // MagCache's history of the unconditional branch consists of passes that ran: it counts their age, not
    // the step before.
    let uncond = |r: &&Ran| r.branch == Branch::Uncond && !r.records[0].reused;
    let first = ran.iter().filter(uncond).find(|r| r.step.index > 4).unwrap();
    assert_ne!(first.records[1].why, Why::OuterCache);
}

#[test]
fn nothing_is_rebuilt_from_a_difference_of_guesses() {
    // Blocks are skipped at the full steps 4 and 8, so only steps 0 to 3 can teach a difference.
    let text = "
        [[cache]]
        strategy = \"cfg-cache\"
        interval = 4
        start = 2
        forecast = { type = \"residual\" }
        [[cache]]
        strategy = \"schedule\"
        skip = [4, 8]
    ";
    let toy = Toy::image(4);
    let steps = Trajectory::plain(12, &BOTH);
    let ran = run(&toy, Some(&mut session(&toy, text, &steps)), &steps, 1).unwrap();
    let plain = run(&toy, None, &steps, 1).unwrap();
    let of = |all: &[Ran], step: usize, branch: Branch| {
        all.iter().find(|r| r.step.index == step && r.branch == branch).unwrap().output.clone()
    };
    for step in [2, 3, 5, 6, 7, 9, 10, 11] {
        let difference = (of(&plain, 1, Branch::Uncond) - of(&plain, 1, Branch::Cond)).unwrap();
        let expected = (of(&ran, step, Branch::Cond) + difference).unwrap();
        assert!(same_bits(&of(&ran, step, Branch::Uncond), &expected), "step {step}");
    }
}

#[test]
fn a_skipped_forward_tells_every_hook_inside() {
    let toy = Toy::image(4);
    let steps = Trajectory::plain(12, &BOTH);
    let info = support::strategies().into_iter().find(|s| s.name == "cfg-cache").unwrap();
    let notes = std::sync::Arc::default();
    let mut session = magcache_core::HookRegistry::builder(4)
        .forward(support::hook_of(info, info.example, 0, toy.meta(), &steps))
        .forward(std::sync::Arc::new(Witness("forward", std::sync::Arc::clone(&notes))))
        .ring(0..4, std::sync::Arc::new(Witness("all", std::sync::Arc::clone(&notes))))
        .and_then(|b| b.ring(1..2, std::sync::Arc::new(Witness("one", std::sync::Arc::clone(&notes)))))
        .unwrap()
        .build()
        .session();
    for ran in run(&toy, Some(&mut session), &steps, 1).unwrap().iter().filter(|r| r.step.index == 5) {
        assert_eq!(ran.records[0].reused, ran.branch == Branch::Uncond);
    }
    let mut told = said(&notes);
    let skipped = told.iter().filter(|s| s.contains("skipped")).count();
    told.dedup();
    assert_eq!(skipped, 3 * session.log().reused(HookId(0), Branch::Uncond).count());
    assert!(told.iter().any(|s| s == "one skipped 1..2") && told.iter().any(|s| s == "all skipped 0..4"));
}

/// The problems of a plan that cannot be used.
fn refused(text: &str, run: &Trajectory) -> String {
    magcache_strategies::link();
    match CachePlan::parse(text).unwrap().build(&ModelMeta::simple("toy", 3), Some(run)) {
        Err(error @ ConfigError::Problems(_)) => error.to_string(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn combinations_that_make_no_sense_are_refused_with_the_reason() {
    let guided = Trajectory::plain(20, &BOTH);
    let [easy, cfg] = ["easycache", "cfg-cache"].map(|s| format!("[[cache]]\nstrategy = \"{s}\"\n"));
    let both = "both surround the whole forward";
    assert!(refused(&format!("{easy}{cfg}"), &guided).contains(both));
    assert!(refused(&format!("{easy}{easy}"), &guided).contains(both));
    let follows = "[[cache]]\nstrategy = \"fbcache\"\nbranches = \"cond-decides\"\n";
    for text in [format!("{cfg}{follows}"), format!("{follows}{cfg}")] {
        assert!(refused(&text, &guided).contains("older than what the conditional one measures"), "{text}");
    }
    assert!(refused(&format!("{cfg}branches = \"cond-decides\""), &guided).contains("cond-decides"));
    // Without guidance there is no branch to skip.
    let alone = refused(&cfg, &Trajectory::plain(20, &[Branch::Cond]));
    assert!(alone.contains("rebuilds the branch uncond from cond, the run has cond alone"), "{alone}");
    let batched = refused(&cfg, &Trajectory::plain(20, &[Branch::Batched]));
    assert!(batched.contains("the run has batched alone"), "{batched}");
}

#[test]
fn combinations_that_help_little_are_warned_about() {
    let warnings = |text: &str, run: &Trajectory| {
        magcache_strategies::link();
        let built = CachePlan::parse(text).unwrap().build(&ModelMeta::simple("toy", 3), Some(run)).unwrap();
        built.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let guided = Trajectory::plain(20, &BOTH);
    let text = "[[cache]]\nstrategy = \"easycache\"\n[[cache]]\nstrategy = \"fbcache\"\n";
    assert!(
        warnings(text, &guided).contains("\"easycache\" learns only from the steps at which \"fbcache\"")
    );
    assert_eq!(warnings(&format!("{text}at = \"2\"\n"), &guided).matches("learns only").count(), 0);
    let swapped = Trajectory { branches: vec![Branch::Uncond, Branch::Cond], ..guided };
    assert!(warnings("[[cache]]\nstrategy = \"cfg-cache\"\n", &swapped).contains("nothing will be skipped"));
}

#[test]
fn the_schedule_of_a_cfg_cache_is_known_before_the_run_and_the_others_are_not() {
    let (model, run) = (ModelMeta::simple("toy", 3), Trajectory::plain(50, &BOTH));
    let registry = |strategy: &str| {
        let text = format!("[[cache]]\nstrategy = \"{strategy}\"\nprofile = \"wan2.1-t2v-tiny\"\n");
        CachePlan::parse(&text).unwrap().build(&model, Some(&run)).unwrap().registry
    };
    assert!(!registry("easycache").is_static() && !registry("sencache").is_static());
    let log = magcache_core::schedule::simulate(&registry("cfg-cache"), &model, &run).unwrap();
    let expected: Vec<usize> = (17..50).filter(|step| step % 5 != 0).collect();
    assert_eq!(log.reused(HookId(0), Branch::Uncond).collect::<Vec<_>>(), expected);
    assert_eq!(log.reused(HookId(0), Branch::Cond).count(), 0);
}

#[test]
fn a_conditional_prediction_that_is_no_number_is_not_built_upon() {
    let (model, run) = (ModelMeta::simple("toy", 1), Trajectory::plain(8, &BOTH));
    let text = "[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 8\nstart = 1\n";
    let mut session = CachePlan::parse(text).unwrap().build(&model, Some(&run)).unwrap().registry.session();
    let one = Tensor::ones((1, 1, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut pass = |step: Step, branch: Branch| {
        let broken = step.index == 3 && branch == Branch::Cond;
        let network = |x: Tensor, pass: &mut magcache_core::Pass<'_>| {
            let x = magcache_core::Streams::Image(x);
            let x = pass.run(1, &no_signals, x, |_, x| Ok(x))?.into_image()?;
            if broken { x.affine(f64::NAN, 0.0) } else { Ok(x) }
        };
        session.pass(step, branch).forward(one.clone(), network).unwrap();
        session.log().records()[session.log().records().len() - 1].why
    };
    let whys: Vec<[Why; 2]> = run.steps().take(5).map(|s| BOTH.map(|b| pass(s.clone(), b))).collect();
    assert_eq!(whys[2], [Why::Leads, Why::Scheduled]);
    assert_eq!(whys[3], [Why::FailsafeNonFinite, Why::NoLeader]);
    assert_eq!(whys[4], [Why::Leads, Why::Scheduled], "the difference is of step 0, and sound");
}
