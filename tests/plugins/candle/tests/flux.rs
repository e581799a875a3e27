//! FLUX.1 of candle-transformers behind caches of the whole forward.

mod support;

use candle_core::Tensor;
use candle_transformers::models::flux::{
    WithForward,
    model::{Config, Flux},
    sampling::{self, State},
};
use magcache_core::{Branch, CachePlan, HookRegistry, Pass, Session, Trajectory, meta};
use magcache_plugin_candle::flux::{self, META};
use support::{assert_near, assert_same, random, session, skipped};

const GUIDANCE: f64 = 3.5;

fn model() -> Flux {
    let config = Config {
        in_channels: 16,
        vec_in_dim: 8,
        context_in_dim: 12,
        hidden_size: 32,
        mlp_ratio: 2.0,
        num_heads: 2,
        depth: 2,
        depth_single_blocks: 3,
        axes_dim: vec![4, 6, 6],
        theta: 10_000,
        qkv_bias: true,
        guidance_embed: true,
    };
    Flux::new(&config, support::weights()).unwrap()
}

/// A batch of two.
fn inputs() -> State {
    let (text, pooled) = (random("text", (1, 5, 12)), random("pooled", (1, 8)));
    let inputs = State::new(&text, &pooled, &random("latents", (2, 4, 8, 8))).unwrap();
    // The library repeats along the first dimension alone, which needs no more for a batch of one.
    State { txt: text.repeat((2, 1, 1)).unwrap(), vec: pooled.repeat((2, 1)).unwrap(), ..inputs }
}

fn run() -> Trajectory {
    Trajectory::from_sigmas(&sampling::get_schedule(12, Some((16, 0.5, 1.15))), &[Branch::Cond])
}

/// The latents after every step.
fn latents(session: &mut Session) -> Vec<Tensor> {
    let mut seen = Vec::new();
    let last =
        flux::denoise(&model(), &inputs(), &run(), GUIDANCE, session, |_, x| seen.push(x.clone())).unwrap();
    assert_same("the last step", &[last], &seen[11..]);
    seen
}

fn dense() -> Vec<Tensor> {
    latents(&mut HookRegistry::for_model(&META).build().session())
}

#[test]
fn without_caches_it_is_the_model_of_the_library() {
    let (model, inputs) = (model(), inputs());
    let State { img, img_ids, txt, txt_ids, vec } = &inputs;
    let (t, guidance) = (random("t", 2), random("guidance", 2));
    let theirs = model.forward(img, img_ids, txt, txt_ids, &t, vec, Some(&guidance)).unwrap();
    let mut empty = HookRegistry::for_model(&META).build().session();
    for mut pass in [Pass::off(), empty.pass(&run().step(0), Branch::Cond)] {
        let ours = flux::forward(&model, img, &inputs, &t, &guidance, &mut pass).unwrap();
        assert_same("one forward", &[ours], std::slice::from_ref(&theirs));
    }
    let theirs = sampling::denoise(&model, img, img_ids, txt, txt_ids, vec, &run().sigmas, GUIDANCE).unwrap();
    assert_same("the loop", &dense()[11..], &[theirs]);
    magcache_plugin_candle::link();
    assert_eq!(meta::model("candle-flux").unwrap(), &META);
}

#[test]
fn caches_of_the_whole_forward_skip_steps_and_stay_near() {
    let dense = dense();
    for (plan, passes) in [
        ("[[cache]]\nstrategy = 'easycache'\nthreshold = 0.2\nwarmup = 3", None),
        ("[[cache]]\nstrategy = 'schedule'\nat = 'forward'\nskip = [4, 6, 8, 9]", Some(4)),
    ] {
        let mut session = session(plan, &META, &run());
        let cached = latents(&mut session);
        let [cond, uncond] = skipped(&session);
        assert!(passes.is_none_or(|passes| passes == cond), "{plan}: {cond}");
        assert!(cond >= 3 && uncond == 0, "{plan}: {cond}, {uncond}");
        assert_near(plan, [&inputs().img, &dense[11], &cached[11]], 0.1);
    }
}

#[test]
fn caches_that_never_skip_change_no_bit() {
    let dense = dense();
    for plan in [
        "[[cache]]\nstrategy = 'easycache'\nthreshold = 0.0",
        "[[cache]]\nstrategy = 'schedule'\nat = 'forward'\nskip = []",
    ] {
        let mut session = session(plan, &META, &run());
        assert_same(plan, &latents(&mut session), &dense);
        assert_eq!((skipped(&session), session.log().records().len()), ([0, 0], 12), "{plan}");
    }
}

/// There is nothing to surround, and a plan says so before the run.
#[test]
fn a_cache_of_blocks_is_refused() {
    magcache_strategies::link();
    for strategy in ["strategy = 'fbcache'", "strategy = 'schedule'\nskip = [3]"] {
        let plan = CachePlan::parse(&format!("[[cache]]\n{strategy}")).unwrap();
        let error = plan.build(&META, Some(&run())).unwrap_err().to_string();
        assert!(error.contains("blocks 0..0 of a model with 0 blocks"), "{error}");
    }
}
