//! Every knob of every strategy changes a schedule: a key that is accepted and has no effect is a defect.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Result, Tensor};
use magcache_core::{
    Branch, CachePlan, Expert, ModelMeta, Pass, Phase, Signal, Streams, Trajectory, Warmup,
    profile::{Curve, Provenance},
    state::HookId,
};
use magcache_models as _;
use magcache_strategies::magcache::{Dialect, Rule};

const STEPS: usize = 24;
const BRANCHES: [Branch; 2] = [Branch::Cond, Branch::Uncond];

/// `[1, 8, 2]`: values that differ between tokens and branches and change at a varying pace during the run.
fn wave(step: usize, branch: Branch, pace: f64) -> Result<Tensor> {
    let phase = if branch == Branch::Cond { 0.0 } else { 0.7 };
    let at = step as f64 * pace + 0.3 * (step as f64 * 0.9 + phase).sin();
    let value = |i: usize| (1.0 + 0.15 * (at * (1.0 + 0.3 * i as f64) + phase).sin()) as f32;
    Tensor::from_vec((0..16).map(value).collect::<Vec<_>>(), (1, 8, 2), &Device::Cpu)
}

/// The skipped steps of a run of three blocks, per branch, as digits.
fn schedule(table: &str) -> Vec<String> {
    ran(table, BRANCHES).0
}

/// The skipped steps and every prediction, with the branches in this order.
fn ran(table: &str, branches: [Branch; 2]) -> (Vec<String>, Vec<Tensor>) {
    let model = ModelMeta {
        signals: vec![Signal::ModulatedInput, Signal::TimestepEmbedding, Signal::TimestepProjection].into(),
        ..ModelMeta::simple("toy", 3)
    };
    let run = Trajectory::plain(STEPS, &branches);
    let plan = CachePlan::parse(&format!("[[cache]]\n{table}")).unwrap();
    let mut outputs = Vec::new();
    let mut session = plan.build(&model, Some(&run)).unwrap().registry.session();
    for step in run.steps() {
        for branch in branches {
            let index = step.index;
            let probe = |signal: Signal, _: &Streams| match signal {
                Signal::ModulatedInput => wave(index, branch, 0.2),
                Signal::TimestepEmbedding => wave(index, branch, 0.5),
                Signal::TimestepProjection => wave(2 * index, branch, 0.4),
            };
            let block = |i: usize, x: Streams| {
                let x = x.into_image()?;
                Ok(Streams::Image((x + wave(index, branch, 0.3 + 0.1 * i as f64)?)?))
            };
            // The blocks see a constant input; a hook around the forward sees latents and predictions that
            // move.
            let forward = |_: Tensor, pass: &mut Pass<'_>| {
                let x = Streams::Image(Tensor::ones((1, 8, 2), DType::F32, &Device::Cpu)?);
                pass.run(3, &probe, x, block)?;
                wave(index, branch, 0.35)
            };
            let latents = wave(index, Branch::Cond, 0.25).unwrap();
            outputs.push(session.pass(step.clone(), branch).forward(latents, forward).unwrap());
        }
    }
    let digits = |branch| {
        let reused: BTreeSet<_> = session.log().reused(HookId(0), branch).collect();
        (0..STEPS).map(|i| if reused.contains(&i) { '1' } else { '0' }).collect()
    };
    (BRANCHES.map(digits).to_vec(), outputs)
}

/// Checks that each change to `base` gives a schedule of its own.
fn each_changes(base: &str, changes: &[&str]) {
    let mut seen = BTreeMap::from([(schedule(base), "nothing")]);
    for change in changes {
        let key = change.split(" = ").next().unwrap();
        let kept: Vec<_> = base.lines().filter(|l| !l.starts_with(&format!("{key} = "))).collect();
        let table = format!("{}\n{change}\n", kept.join("\n"));
        if let Some(other) = seen.insert(schedule(&table), change) {
            panic!("`{change}` and `{other}` give the same schedule with\n{base}");
        }
    }
}

const CURVE: &str = "ratios = { cond = [1.0, 1.02, 0.99, 0.98, 0.97, 0.985, 0.96, 0.95], \
                     uncond = [1.0, 1.0, 0.97, 0.99, 0.95, 0.97, 0.98, 0.91] }";

#[test]
fn magcache() {
    let base = format!("strategy = \"magcache\"\nthreshold = 0.12\nmax_skips = 3\nwarmup = 0.2\n{CURVE}\n");
    let changes = [
        "threshold = 0.2",
        "max_skips = 1",
        "warmup = 0.5",
        "warmup = 7",
        "last_steps = 4",
        "max_total_skips = 5",
        "dialect = \"official-wan\"",
        "ratios = [1.0, 0.9, 0.99, 0.8]",
    ];
    each_changes(&base, &changes);
    each_changes(&format!("{base}dialect = \"official-wan\"\n"), &["branches = \"cond-decides\""]);
    each_changes(&format!("{base}dialect = \"diffusers\"\n"), &["assume_steps = 7"]);
}

#[test]
fn magcache_profile_and_variant() {
    let base = "strategy = \"magcache\"\nprofile = \"flux.1-dev\"\n";
    each_changes(
        base,
        &["profile = \"wan2.1-t2v-1.3b\"", "profile = \"framepack\"", "variant = \"vllm-omni\""],
    );
}

#[test]
fn teacache() {
    let base = "strategy = \"teacache\"\nthreshold = 0.1\ncoefficients = [2.0, 0.0, 0.5, 0.01]\n";
    let changes = [
        "threshold = 0.2",
        "coefficients = [9.0, 0.0, 0.7, 0.005]",
        "policy = \"linear\"",
        "signal = \"timestep-embedding\"",
        "signal = \"timestep-projection\"",
        "fitted_range = [0.2, 0.9]",
        "warmup = 6",
        "warmup = 0.5",
        "last_steps = 5",
        "max_skips = 1",
        "max_total_skips = 3",
        "branches = \"cond-decides\"",
    ];
    each_changes(base, &changes);
}

#[test]
fn teacache_profile_and_variant() {
    let base = "strategy = \"teacache\"\nprofile = \"wan2.1-t2v-1.3b\"\nthreshold = 0.2\n";
    each_changes(base, &["profile = \"flux.1-dev\"", "variant = \"ret-steps\""]);
}

#[test]
fn fbcache() {
    let base = "strategy = \"fbcache\"\nthreshold = 0.08\n";
    let changes = [
        "threshold = 0.12",
        "metric = \"hidden_rel_l1\"",
        "metric = \"hidden_rel_l2\"",
        "downsample = 3",
        "ema = 0.8",
        "dialect = \"diffusers\"",
        "warmup = 7",
        "warmup = 0.5",
        "last_steps = 9",
        "max_skips = 1",
        "max_total_skips = 3",
        "branches = \"cond-decides\"",
    ];
    each_changes(base, &changes);
}

#[test]
fn dbcache() {
    let base = "strategy = \"dbcache\"\nfront = 1\nwarmup = 3\nthreshold = 0.08\n";
    let changes = [
        "front = 2",
        "threshold = 0.12",
        "warmup = 8",
        "warmup = 0.5",
        "last_steps = 9",
        "max_skips = 1",
        "max_total_skips = 3",
        "branches = \"cond-decides\"",
    ];
    each_changes(base, &changes);
    // Back blocks change which blocks are skipped, but no decision.
    let left_out = |back: usize| {
        let table = format!("[[cache]]\n{base}back = {back}\n");
        let built = CachePlan::parse(&table).unwrap().build(&ModelMeta::simple("toy", 3), None).unwrap();
        let mut session = built.registry.session();
        let x = Streams::Image(Tensor::ones((1, 2, 2), DType::F32, &Device::Cpu).unwrap());
        let block = |_, x: Streams| Ok(Streams::Image((x.into_image()? + 1.0)?));
        let step = magcache_core::Step::plain(0, 2);
        session.pass(step, Branch::Cond).run(3, &magcache_core::no_signals, x, block).unwrap();
        session.log().records()[0].blocks.clone()
    };
    assert_eq!([left_out(0), left_out(1)], [1..3, 1..2]);
}

#[test]
fn fbcache_on_equality() {
    // Nothing moves and the threshold is 0: only the dialect that skips on equality skips.
    let still = |dialect: &str| {
        let table = format!("[[cache]]\nstrategy = \"fbcache\"\nthreshold = 0.0\ndialect = \"{dialect}\"\n");
        let model = ModelMeta::simple("toy", 3);
        let run = Trajectory::plain(6, &[Branch::Cond]);
        let mut session =
            CachePlan::parse(&table).unwrap().build(&model, Some(&run)).unwrap().registry.session();
        for step in run.steps() {
            let x = Streams::Image(Tensor::ones((1, 2, 2), DType::F32, &Device::Cpu).unwrap());
            let block = |_, x: Streams| Ok(Streams::Image((x.into_image()? + 1.0)?));
            session.pass(step, Branch::Cond).run(3, &magcache_core::no_signals, x, block).unwrap();
        }
        session.log().reused(HookId(0), Branch::Cond).count()
    };
    assert_eq!((still("magcache"), still("diffusers")), (0, 5));
}

#[test]
fn easycache() {
    let base = "strategy = \"easycache\"\nthreshold = 0.4\n";
    let changes = [
        "threshold = 0.8",
        "warmup = 9",
        "warmup = 0.5",
        "last_steps = 6",
        "max_skips = 1",
        "max_total_skips = 3",
        "branches = \"own\"",
    ];
    each_changes(base, &changes);
}

#[test]
fn sencache() {
    let table = |latent: f64| {
        format!(
            "sensitivity = [{{ timesteps = [1000, 400, 0], latent = [{latent}, 1.0, 1.5], timestep = [5e-4, 2e-4, 4e-4] }}]"
        )
    };
    let base = format!("strategy = \"sencache\"\nthreshold = 0.2\nearly_threshold = 0.1\n{}\n", table(1.0));
    let (other, changes) = (
        table(3.0),
        [
            "threshold = 0.3",
            "early_threshold = 0.05",
            "early = 0.6",
            "early = 8",
            "warmup = 8",
            "last_steps = 5",
            "max_skips = 1",
            "max_total_skips = 3",
        ],
    );
    each_changes(&base, &[&changes[..], &[other.as_str()]].concat());
    // Both branches see the same latents and agree; only an unconditional branch that runs first differs.
    let first = |more: &str| ran(&format!("{base}{more}\n"), [Branch::Uncond, Branch::Cond]).0;
    assert_ne!(first(""), first("branches = \"own\""));
}

#[test]
fn sencache_profile() {
    let run = |more: &str| {
        ran(&format!("strategy = \"sencache\"\nprofile = \"wan2.1-t2v-tiny\"\n{more}"), BRANCHES).0
    };
    assert_ne!(run(""), run("threshold = 9.0\nearly_threshold = 9.0"));
}

#[test]
fn cfg_cache() {
    let base = "strategy = \"cfg-cache\"\ninterval = 5\nstart = 0.3\n";
    let changes = [
        "interval = 3",
        "start = 2",
        "start = 0.5",
        "end = 20",
        "end = 0.75",
        "warmup = 14",
        "last_steps = 2",
        "max_skips = 1",
        "max_total_skips = 4",
    ];
    each_changes(base, &changes);
    let outputs = |more: &str| {
        let values = ran(&format!("{base}{more}"), BRANCHES).1;
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.iter().flat_map(bits).map(f32::to_bits).collect::<Vec<_>>()
    };
    let weights = [
        "",
        "alpha_low = 1.2",
        "alpha_high = 1.2",
        "low_until = 0.5",
        "low_until = 9",
        "high_from = 0.4",
        "high_from = 20",
        "forecast = { type = \"residual\" }",
        "forecast = { type = \"output\" }",
    ];
    let different: BTreeSet<_> = weights.iter().map(|w| outputs(w)).collect();
    assert_eq!(different.len(), weights.len(), "a weight without effect");
}

#[test]
fn schedule_of_listed_steps() {
    let base = "strategy = \"schedule\"\nskip = { cond = [2, 3, 4, 8, 22], uncond = [3, 8] }\n";
    let changes = [
        "skip = [2, 3, 4, 8, 22]",
        "skip = { cond = [2, 4], uncond = [3, 8] }",
        "warmup = 4",
        "last_steps = 3",
        "max_skips = 1",
        "max_total_skips = 2",
        "branches = \"cond-decides\"",
    ];
    // Letting the conditional branch decide is the same as giving its list to every branch.
    assert_eq!(
        schedule(&format!("{base}{}\n", changes[6])),
        schedule(&format!("strategy = \"schedule\"\n{}\n", changes[0]))
    );
    each_changes(base, &changes[1..]);
}

#[test]
fn combinations() {
    let fbcache = |threshold| format!("{{ strategy = \"fbcache\", threshold = {threshold} }}");
    let magcache = format!("{{ strategy = \"magcache\", threshold = 0.12, {CURVE} }}");
    for strategy in ["priority", "any-veto"] {
        let base = format!("strategy = \"{strategy}\"\nmembers = [{}, {magcache}]\n", fbcache(0.08));
        let members = format!("members = [{}, {magcache}]", fbcache(0.02));
        let changes =
            [members.as_str(), "warmup = 9", "last_steps = 6", "max_skips = 1", "max_total_skips = 2"];
        each_changes(&base, &changes);
    }
    let members =
        |strategy| schedule(&format!("strategy = \"{strategy}\"\nmembers = [{}, {magcache}]", fbcache(0.08)));
    assert_ne!(members("priority"), members("any-veto"));
}

/// The decisions of a dialect over many settings, as text.
fn decisions(dialect: Dialect) -> String {
    let curve = Curve {
        variant: None,
        expert: None,
        steps: 23,
        dialect: None,
        flow_shift: None,
        boundary_ratio: None,
        ratios: BTreeMap::from([
            ("cond".to_owned(), (0..23).map(|i| 1.0 - 0.002 * f64::from(i * i % 17)).collect()),
            ("uncond".to_owned(), (0..23).map(|i| 1.0 - 0.003 * f64::from(i * i % 19)).collect()),
        ]),
        std: BTreeMap::new(),
        cosine_distance: BTreeMap::new(),
        recommended: Vec::new(),
        source: Provenance::default(),
    };
    let mut out = String::new();
    for (threshold, max_skips, retention, steps) in
        [(0.05, 2, 0.2, 25), (0.12, 4, 0.13, 20), (0.24, 5, 0.3, 31), (0.06, 3, 0.0, 45)]
    {
        let rule = Rule {
            dialect,
            threshold,
            max_skips,
            retention: Warmup::Fraction(retention),
            curves: vec![curve.clone()],
            assume_steps: None,
        };
        let high = steps / 2;
        let phases =
            [Phase { expert: Expert(0), steps: 0..high }, Phase { expert: Expert(1), steps: high..steps }];
        for branch in BRANCHES {
            out.extend(rule.schedule(&phases, branch).iter().map(|skip| if *skip { '1' } else { '0' }));
        }
    }
    out
}

#[test]
fn every_dialect_is_a_rule_of_its_own() {
    let by_decisions: BTreeMap<_, _> = Dialect::ALL.map(|d| (decisions(d), d)).into_iter().collect();
    assert_eq!(by_decisions.len(), Dialect::ALL.len(), "only these differ: {:?}", by_decisions.values());
}
