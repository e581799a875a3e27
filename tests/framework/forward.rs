//! Caches of whole forwards: they decide and rebuild as their publishers' code does, work together with
//! caches of blocks, and are refused where they make no sense.

use magcache_strategies::cfg_cache::low_pass;
use serde_json::Value;

use crate::prelude::*;

/// The output of `tests/reference/forward_caches.py`.
struct Published {
    timesteps: Vec<f64>,
    cases: Vec<Value>,
    tensors: HashMap<String, Tensor>,
}

impl Published {
    fn read() -> Self {
        let (report, tensors) = recorded("forward_caches");
        let timesteps = serde_json::from_value(report["timesteps"].clone()).unwrap();
        Self { timesteps, cases: report["cases"].as_array().unwrap().clone(), tensors }
    }

    /// Latents or a prediction at one step, `[1, channels, frames, height, width]`.
    fn at(&self, name: &str, step: usize) -> Tensor {
        self.tensors[name].narrow(0, step, 1).unwrap()
    }

    fn trajectory(&self) -> Trajectory {
        let plain = guided(self.timesteps.len());
        Trajectory { timesteps: self.timesteps.clone(), ..plain }
    }

    /// Runs the same states through our hooks: the output of each step, and the session.
    fn replay(&self, table: &str) -> (HashMap<(usize, Branch), Tensor>, Session) {
        let run = self.trajectory();
        let mut session = session(table, &simple("toy", 1), &run);
        let mut out = HashMap::new();
        for (step, branch) in run.steps().flat_map(|step| BOTH.map(|branch| (step.clone(), branch))) {
            let index = step.index;
            let network = |_, _: &mut Pass<'_>| Ok(self.at(&branch.to_string(), index));
            let y = session.pass(&step, branch).forward(self.at("latents", index), network).unwrap();
            out.insert((index, branch), y);
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
            let skipped: Vec<usize> = reused(&session, 0, branch);
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

#[test]
fn a_cfg_cache_around_magcache_on_blocks() {
    // Skips 4 of 5 unconditional passes outside, and most blocks inside.
    let text = "[[cache]]\nstrategy = 'cfg-cache'\ninterval = 4\nstart = 2\n\
                [[cache]]\nstrategy = 'magcache'\nthreshold = 0.3\nmax_skips = 2\nwarmup = 2\n\
                ratios = [1.0, 0.99, 0.985, 0.99, 0.98, 0.985, 0.99, 0.98, 0.98, 0.98, 0.97, 0.96]";
    let (toy, steps) = (Toy::image(4), guided(16));
    let mut session = session(text, toy.meta(), &steps);
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
}

#[test]
fn nothing_is_rebuilt_from_a_difference_of_guesses() {
    // Blocks are skipped at the full steps 4 and 8, so only steps 0 to 3 can teach a difference.
    let text = "[[cache]]\nstrategy = 'cfg-cache'\ninterval = 4\nstart = 2\nforecast = { type = 'residual' }\n\
                [[cache]]\nstrategy = 'schedule'\nskip = [4, 8]";
    let (toy, steps) = (Toy::image(4), guided(12));
    let ran = run(&toy, Some(&mut session(text, toy.meta(), &steps)), &steps, 1).unwrap();
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
fn combinations_that_make_no_sense_are_refused_with_the_reason() {
    let toy = simple("toy", 3);
    let refused = |text: &str, branches: &[Branch], reason: &str| {
        let error = build(text, &toy, &Trajectory::plain(20, branches)).unwrap_err();
        assert!(matches!(error, ConfigError::Problems(_)), "{text}: {error:?}");
        assert!(error.to_string().contains(reason), "{text}: {error}");
    };
    let [easy, cfg] = ["easycache", "cfg-cache"].map(|s| format!("[[cache]]\nstrategy = '{s}'\n"));
    let follows = "[[cache]]\nstrategy = 'fbcache'\nbranches = 'cond-decides'\n";
    let older = "older than what the conditional one measures";
    refused(&format!("{easy}{cfg}"), &BOTH, "both surround the whole forward");
    refused(&format!("{easy}{easy}"), &BOTH, "both surround the whole forward");
    refused(&format!("{cfg}{follows}"), &BOTH, older);
    refused(&format!("{follows}{cfg}"), &BOTH, older);
    refused(&format!("{cfg}branches = 'cond-decides'"), &BOTH, "cond-decides");
    // Without guidance there is no branch to skip.
    refused(&cfg, &[Branch::Cond], "rebuilds the branch uncond from cond, the run has cond alone");
    refused(&cfg, &[Branch::Batched], "the run has batched alone");
}

#[test]
fn combinations_that_help_little_are_warned_about() {
    let warnings = |text: &str, run: &Trajectory| {
        let built = build(text, &simple("toy", 3), run).unwrap();
        built.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let text = "[[cache]]\nstrategy = 'easycache'\n[[cache]]\nstrategy = 'fbcache'\n";
    let learns = "\"easycache\" learns only from the steps at which \"fbcache\"";
    assert!(warnings(text, &guided(20)).contains(learns));
    assert!(!warnings(&format!("{text}at = '2'\n"), &guided(20)).contains("learns only"));
    let swapped = Trajectory { branches: vec![Branch::Uncond, Branch::Cond], ..guided(20) };
    assert!(warnings("[[cache]]\nstrategy = 'cfg-cache'\n", &swapped).contains("nothing will be skipped"));
}

#[test]
fn the_schedule_of_a_cfg_cache_is_known_before_the_run_and_the_others_are_not() {
    let (model, run) = (simple("toy", 3), guided(50));
    let registry = |strategy: &str| {
        let text = format!("[[cache]]\nstrategy = \"{strategy}\"\nprofile = \"wan2.1-t2v-tiny\"\n");
        build(&text, &model, &run).unwrap().registry
    };
    assert!(!registry("easycache").is_static() && !registry("sencache").is_static());
    let log = simulate(&registry("cfg-cache"), &model, &run).unwrap();
    let expected: Vec<usize> = (17..50).filter(|step| step % 5 != 0).collect();
    assert_eq!(log.reused(HookId(0), Branch::Uncond).collect::<Vec<_>>(), expected);
    assert_eq!(log.reused(HookId(0), Branch::Cond).count(), 0);
}

#[test]
fn a_conditional_prediction_that_is_no_number_is_not_built_upon() {
    let (model, run) = (simple("toy", 1), guided(8));
    let text = "[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 8\nstart = 1\n";
    let mut session = session(text, &model, &run);
    let one = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let mut pass = |step: Step, branch: Branch| {
        let broken = step.index == 3 && branch == Branch::Cond;
        let network = |x: Tensor, pass: &mut Pass<'_>| {
            let x = Streams::Image(x);
            let x = pass.run(1, &no_signals, x, |_, x| Ok(x))?.into_image()?;
            if broken { x.affine(f64::NAN, 0.0) } else { Ok(x) }
        };
        session.pass(&step, branch).forward(one.clone(), network).unwrap();
        session.log().records()[session.log().records().len() - 1].why
    };
    let whys: Vec<[Why; 2]> = run.steps().take(5).map(|s| BOTH.map(|b| pass(s.clone(), b))).collect();
    assert_eq!(whys[2], [Why::Leads, Why::Scheduled]);
    assert_eq!(whys[3], [Why::FailsafeNonFinite, Why::NoLeader]);
    assert_eq!(whys[4], [Why::Leads, Why::Scheduled], "the difference is of step 0, and sound");
}
