//! Every knob of every strategy changes a schedule: a key that is accepted and has no effect is a defect.

use candle_core::Result;
use magcache_strategies::magcache::Dialect;

use crate::prelude::*;

const STEPS: usize = 24;

/// `[1, 8, 2]`: values that differ between tokens and branches and change at a varying pace during the run.
fn wave(step: usize, branch: Branch, pace: f64) -> Result<Tensor> {
    let phase = if branch == Branch::Cond { 0.0 } else { 0.7 };
    let at = step as f64 * pace + 0.3 * (step as f64 * 0.9 + phase).sin();
    let value = |i: usize| (1.0 + 0.15 * (at * (1.0 + 0.3 * i as f64) + phase).sin()) as f32;
    Tensor::from_vec((0..16).map(value).collect::<Vec<_>>(), (1, 8, 2), &Device::Cpu)
}

/// The skipped steps of a run of three blocks, per branch, as digits.
fn schedule(table: &str) -> Vec<String> {
    ran(table, BOTH).0
}

/// The skipped steps and every prediction, with the branches in this order.
fn ran(table: &str, branches: [Branch; 2]) -> (Vec<String>, Vec<Tensor>) {
    let model = ModelMeta { signals: Signal::ALL.to_vec().into(), ..simple("toy", 3) };
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
                Signal::Latents => wave(index, Branch::Cond, 0.25)?.reshape((1, 2, 2, 4)),
            };
            let block = |i: usize, x: Streams| {
                let x = x.into_image()?;
                Ok(Streams::Image((x + wave(index, branch, 0.3 + 0.1 * i as f64)?)?))
            };
            // The blocks see a constant input; a hook around the forward sees latents and predictions that
            // move.
            let forward = |_: Tensor, pass: &mut Pass<'_>| {
                Stacks::default()
                    .streams(&[0, 1, 2], |_, i, x, _| block(*i, x))
                    .signals(probe)
                    .grid(&[2, 2, 2])
                    .run(pass, ones(8, 2))?;
                wave(index, branch, 0.35)
            };
            let latents = wave(index, Branch::Cond, 0.25).unwrap();
            outputs.push(session.pass(&step, branch).forward(latents, forward).unwrap());
        }
    }
    let digits = |branch| {
        let reused = reused(&session, 0, branch);
        (0..STEPS).map(|i| if reused.contains(&i) { '1' } else { '0' }).collect()
    };
    (BOTH.map(digits).to_vec(), outputs)
}

/// Checks that each change to `base` gives a schedule of its own.
fn each_changes<'a>(base: &str, changes: impl IntoIterator<Item = &'a str>) {
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

const SENSITIVITY: &str = "sensitivity = [{ timesteps = [1000, 400, 0], latent = [1.0, 1.0, 1.5], \
                           timestep = [5e-4, 2e-4, 4e-4] }]";

/// Tables, and changes that each give a schedule of their own, separated by semicolons.
const KNOBS: [(&str, &str); 18] = [
    (
        "strategy = 'magcache'\nthreshold = 0.12\nmax_skips = 3\nwarmup = 0.2\nCURVE",
        "threshold = 0.2; max_skips = 1; warmup = 0.5; warmup = 7; last_steps = 4; max_total_skips = 5; \
         dialect = 'official-wan'; ratios = [1.0, 0.9, 0.99, 0.8]",
    ),
    (
        "strategy = 'magcache'\nthreshold = 0.12\nmax_skips = 3\nwarmup = 0.2\nCURVE\ndialect = 'official-wan'",
        "branches = 'cond-decides'",
    ),
    (
        "strategy = 'magcache'\nthreshold = 0.12\nmax_skips = 3\nwarmup = 0.2\nCURVE\ndialect = 'diffusers'",
        "assume_steps = 7",
    ),
    (
        "strategy = 'magcache'\nprofile = 'flux.1-dev'",
        "profile = 'wan2.1-t2v-1.3b'; profile = 'framepack'; variant = 'vllm-omni'",
    ),
    (
        "strategy = 'teacache'\nthreshold = 0.1\ncoefficients = [2.0, 0.0, 0.5, 0.01]",
        "threshold = 0.2; coefficients = [9.0, 0.0, 0.7, 0.005]; policy = 'linear'; signal = 'timestep-embedding'; \
         signal = 'timestep-projection'; fitted_range = [0.2, 0.9]; warmup = 6; warmup = 0.5; last_steps = 5; \
         max_skips = 1; max_total_skips = 3; branches = 'cond-decides'",
    ),
    (
        "strategy = 'teacache'\nprofile = 'wan2.1-t2v-1.3b'\nthreshold = 0.2",
        "profile = 'flux.1-dev'; variant = 'ret-steps'",
    ),
    (
        "strategy = 'fbcache'\nthreshold = 0.08",
        "threshold = 0.12; metric = 'hidden_rel_l1'; metric = 'hidden_rel_l2'; downsample = 3; ema = 0.8; \
         dialect = 'diffusers'; warmup = 7; warmup = 0.5; last_steps = 9; max_skips = 1; max_total_skips = 3; \
         branches = 'cond-decides'",
    ),
    (
        "strategy = 'dbcache'\nfront = 1\nwarmup = 3\nthreshold = 0.08",
        "front = 2; threshold = 0.12; warmup = 8; warmup = 0.5; last_steps = 9; max_skips = 1; \
         max_total_skips = 3; branches = 'cond-decides'",
    ),
    (
        "strategy = 'dicache'\nthreshold = 0.1\nretention = 0.25",
        "threshold = 0.3; retention = 0.5; retention = 0.0; probe = 2; dialect = 'flux'; \
         warmup = 8; last_steps = 6; max_skips = 1; max_total_skips = 3; branches = 'cond-decides'",
    ),
    ("strategy = 'dicache'\nthreshold = 0.1\nretention = 0.3\ndialect = 'wan'", "dialect = 'steps'"),
    (
        "strategy = 'seacache'\nthreshold = 0.1",
        "threshold = 0.3; power = 1.0; warmup = 6; warmup = 0.5; last_steps = 5; max_skips = 1; max_total_skips = 3",
    ),
    (
        "strategy = 'seacache'\nthreshold = 0.1\ndialect = 'filtered'",
        "dialect = 'diffusers'; dialect = 'official'; branches = 'cond-decides'",
    ),
    (
        "strategy = 'meancache'\ntable = 'z-image-13'",
        "table = 'qwen-image-10'; table = 'z-image-25'; warmup = 9; last_steps = 5; max_skips = 1; max_total_skips = 3",
    ),
    (
        "strategy = 'easycache'\nthreshold = 0.4",
        "threshold = 0.8; warmup = 9; warmup = 0.5; last_steps = 6; max_skips = 1; max_total_skips = 3; \
         branches = 'own'",
    ),
    (
        "strategy = 'sencache'\nthreshold = 0.2\nearly_threshold = 0.1\nSENSITIVITY",
        "threshold = 0.3; early_threshold = 0.05; early = 0.6; early = 8; warmup = 8; last_steps = 5; \
         max_skips = 1; max_total_skips = 3; sensitivity = [{ timesteps = [1000, 400, 0], \
         latent = [3.0, 1.0, 1.5], timestep = [5e-4, 2e-4, 4e-4] }]",
    ),
    ("strategy = 'sencache'\nprofile = 'wan2.1-t2v-tiny'", "threshold = 9.0\nearly_threshold = 9.0"),
    (
        "strategy = 'cfg-cache'\ninterval = 5\nstart = 0.3",
        "interval = 3; start = 2; start = 0.5; end = 20; end = 0.75; warmup = 14; last_steps = 2; max_skips = 1; \
         max_total_skips = 4",
    ),
    (
        "strategy = 'schedule'\nskip = { cond = [2, 3, 4, 8, 22], uncond = [3, 8] }",
        "skip = { cond = [2, 4], uncond = [3, 8] }; warmup = 4; last_steps = 3; max_skips = 1; \
         max_total_skips = 2; branches = 'cond-decides'",
    ),
];

#[test]
fn every_key_changes_a_schedule() {
    for (base, changes) in KNOBS {
        let base = base.replace("CURVE", CURVE).replace("SENSITIVITY", SENSITIVITY);
        each_changes(&base, changes.split("; "));
    }
}

#[test]
fn combinations() {
    let fbcache = |threshold| format!("{{ strategy = 'fbcache', threshold = {threshold} }}");
    let magcache = format!("{{ strategy = 'magcache', threshold = 0.12, {CURVE} }}");
    let members = |threshold| format!("members = [{}, {magcache}]", fbcache(threshold));
    let base = |strategy| format!("strategy = '{strategy}'\n{}", members(0.08));
    for strategy in ["priority", "any-veto"] {
        let other = members(0.02);
        let changes =
            [other.as_str(), "warmup = 9", "last_steps = 6", "max_skips = 1", "max_total_skips = 2"];
        each_changes(&base(strategy), changes);
    }
    assert_ne!(schedule(&base("priority")), schedule(&base("any-veto")));
}

#[test]
fn the_branch_that_decides() {
    // Letting the conditional branch decide is the same as giving its list to every branch.
    let skip = "strategy = 'schedule'\nskip = { cond = [2, 3, 4, 8, 22], uncond = [3, 8] }\n";
    let all = schedule("strategy = 'schedule'\nskip = [2, 3, 4, 8, 22]");
    assert_eq!(schedule(&format!("{skip}branches = 'cond-decides'")), all);
    assert_ne!(schedule(skip), all);
    // Both branches see the same latents and agree; only an unconditional branch that runs first differs.
    let sencache = format!("strategy = 'sencache'\nthreshold = 0.2\nearly_threshold = 0.1\n{SENSITIVITY}\n");
    let first = |more: &str| ran(&format!("{sencache}{more}"), [Branch::Uncond, Branch::Cond]).0;
    assert_ne!(first(""), first("branches = 'own'"));
}

#[test]
fn weights_of_the_cfg_cache() {
    let base = "strategy = 'cfg-cache'\ninterval = 5\nstart = 0.3\n";
    let weights = [
        "",
        "alpha_low = 1.2",
        "alpha_high = 1.2",
        "low_until = 0.5",
        "low_until = 9",
        "high_from = 0.4",
        "high_from = 20",
        "forecast = { type = 'residual' }",
        "forecast = { type = 'output' }",
    ];
    let outputs = |more: &str| -> Vec<u64> {
        let all = ran(&format!("{base}{more}"), BOTH).1;
        all.iter().flat_map(values).map(f64::to_bits).collect()
    };
    let different: BTreeSet<_> = weights.iter().map(|w| outputs(w)).collect();
    assert_eq!(different.len(), weights.len(), "a weight without effect");
}

/// The log of a run of three blocks that each add one to a constant input.
fn still(table: &str, steps: usize) -> Session {
    let run = alone(steps);
    let mut session = session(&format!("[[cache]]\n{table}"), &simple("toy", 3), &run);
    for step in run.steps() {
        session.pass(&step, Branch::Cond).run(3, &no_signals, ones(2, 2), |_, x| x.map(|x| x + 1.0)).unwrap();
    }
    session
}

#[test]
fn fbcache_on_equality() {
    // Nothing moves and the threshold is 0: only the dialect that skips on equality skips.
    let skips = |dialect: &str| {
        let table = format!("strategy = 'fbcache'\nthreshold = 0.0\ndialect = '{dialect}'");
        reused(&still(&table, 6), 0, Branch::Cond).len()
    };
    assert_eq!((skips("magcache"), skips("diffusers")), (0, 5));
}

#[test]
fn back_blocks_of_dbcache() {
    // They change which blocks are skipped, but no decision.
    let left_out = |back: usize| {
        let table = format!("strategy = 'dbcache'\nfront = 1\nwarmup = 3\nthreshold = 0.08\nback = {back}");
        still(&table, 1).log().records()[0].blocks.clone()
    };
    assert_eq!([left_out(0), left_out(1)], [1..3, 1..2]);
}

/// The decisions of a dialect over many settings, as text.
fn decisions(dialect: Dialect) -> String {
    let values = |by: f64, modulus: i32| (0..23).map(|i| 1.0 - by * f64::from(i * i % modulus)).collect();
    let curve = curve(values(0.002, 17), values(0.003, 19));
    let mut out = String::new();
    for (setting, steps) in
        [((0.05, 2, 0.2), 25), ((0.12, 4, 0.13), 20), ((0.24, 5, 0.3), 31), ((0.06, 3, 0.0), 45)]
    {
        let rule = rule(dialect, setting, vec![curve.clone()]);
        let phases = phases(&[steps / 2, steps - steps / 2]);
        for branch in BOTH {
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
