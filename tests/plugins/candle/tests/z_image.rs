//! Z-Image of candle-transformers with caches around its layers.

mod support;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::z_image::{
    Config, FlowMatchEulerDiscreteScheduler, SchedulerConfig, ZImageTransformer2DModel, sampling::CfgConfig,
};
use magcache_core::{Branch, HookRegistry, Pass, Session, Step, Trajectory, hint, meta, testing};
use magcache_plugin_candle::{
    ZImage,
    z_image::{META, trajectory},
};
use support::{assert_near, assert_same, random, session, skipped};

const LAYERS: usize = 6;
const STEPS: usize = 12;

fn config() -> Config {
    Config {
        in_channels: 4,
        dim: 48,
        n_layers: LAYERS,
        n_heads: 3,
        n_kv_heads: 3,
        cap_feat_dim: 20,
        axes_dims: vec![4, 6, 6],
        axes_lens: vec![64, 16, 16],
        ..Config::z_image_turbo()
    }
}

fn model() -> ZImage {
    ZImage::new(&config(), support::weights()).unwrap()
}

fn noise() -> Tensor {
    random("noise", (2, 4, 1, 8, 8))
}

/// A prompt of 6 tokens, of which the last are padding for the second of the batch.
fn prompt(seed: &str) -> (Tensor, Tensor) {
    let mask = Tensor::new(&[[1_u8, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], &Device::Cpu).unwrap();
    (random(seed, (2, 6, 20)), mask)
}

fn scheduler() -> FlowMatchEulerDiscreteScheduler {
    let mut scheduler = FlowMatchEulerDiscreteScheduler::new(SchedulerConfig::z_image_turbo());
    scheduler.set_timesteps(STEPS, None);
    scheduler
}

fn run() -> Trajectory {
    trajectory(&scheduler())
}

/// The latents after every step.
fn latents(session: &mut Session) -> Vec<Tensor> {
    let ((cond, cond_mask), (uncond, uncond_mask)) = (prompt("cond"), prompt("uncond"));
    let prompts = [(&cond, &cond_mask), (&uncond, &uncond_mask)];
    let mut seen = Vec::new();
    let guidance = CfgConfig { guidance_scale: 2.0, ..CfgConfig::default() };
    let after = |_: &Step, x: &Tensor| seen.push(x.clone());
    model().denoise(noise(), prompts, scheduler(), &guidance, session, after).unwrap();
    seen
}

fn dense() -> Vec<Tensor> {
    latents(&mut HookRegistry::for_model(&model().meta()).build().session())
}

#[test]
fn without_caches_it_is_the_model_of_the_library() {
    let (ours, theirs) = (model(), ZImageTransformer2DModel::new(&config(), support::weights()).unwrap());
    let ((text, mask), t) = (prompt("cond"), Tensor::new(&[0.2_f32, 0.7], &Device::Cpu).unwrap());
    let theirs = theirs.forward(&noise(), &t, &text, &mask).unwrap();
    let forward = |pass: &mut Pass<'_>| ours.forward(&noise(), &t, (&text, &mask), pass);
    assert_same("one forward", &[forward(&mut Pass::off()).unwrap()], &[theirs]);
    testing::check_model(LAYERS, forward);
    magcache_plugin_candle::link();
    assert_eq!(meta::model("candle-z-image").unwrap(), &META);
}

#[test]
fn caches_skip_layers_and_stay_near() {
    let dense = dense();
    let ratios = "ratios = [1.0, 1.0, 1.0, 1.0, 1.0, 0.99, 0.99, 0.99, 0.99, 0.98, 0.98, 0.97]";
    for plan in [
        "[[cache]]\nstrategy = 'fbcache'\nthreshold = 0.3\nwarmup = 3".to_owned(),
        format!("[[cache]]\nstrategy = 'magcache'\nthreshold = 0.1\nmax_skips = 2\nwarmup = 3\n{ratios}"),
        "[[cache]]\nstrategy = 'schedule'\nskip = [4, 6, 8, 9]".to_owned(),
        "[[cache]]\nstrategy = 'schedule'\nat = '2..5'\nskip = [4, 6, 8, 9]".to_owned(),
        "[[cache]]\nstrategy = 'teacache'\npolicy = 'linear'\nsignal = 'timestep-embedding'\nthreshold = 0.3\nwarmup = 3"
            .to_owned(),
    ] {
        let mut session = session(&plan, &model().meta(), &run());
        let cached = latents(&mut session);
        let [cond, uncond] = skipped(&session);
        assert!(cond >= 3 && uncond >= 3, "{plan}: {cond}, {uncond}");
        assert_near(&plan, [&noise(), &dense[STEPS - 1], &cached[STEPS - 1]], 0.1);
    }
}

/// The residual of a step is right for a second step with the same input, wherever the skipped layers are:
/// the image stays in front of the text.
#[test]
fn a_second_look_at_the_same_input_gives_the_same_output() {
    let (model, (text, mask)) = (model(), prompt("cond"));
    let t = Tensor::new(&[0.2_f32, 0.7], &Device::Cpu).unwrap();
    for at in ["layers", "0..3", "2..5", "5"] {
        let run = Trajectory::plain(2, &[Branch::Cond]);
        let plan = format!("[[cache]]\nstrategy = 'schedule'\nat = '{at}'\nskip = [1]\nwarmup = 0");
        let mut session = session(&plan, &model.meta(), &run);
        let mut look = |step| {
            model.forward(&noise(), &t, (&text, &mask), &mut session.pass(&run.step(step), Branch::Cond))
        };
        let (first, second) = (look(0).unwrap(), look(1).unwrap());
        assert_eq!(skipped(&session), [1, 0], "{at}");
        assert_near(at, [&first.zeros_like().unwrap(), &first, &second], 1e-5);
    }
}

#[test]
fn caches_that_never_skip_change_no_bit() {
    let dense = dense();
    for (strategy, keys) in [
        ("fbcache", "threshold = 0.0"),
        ("dbcache", "threshold = 0.0"),
        ("magcache", "threshold = 0.0\nratios = [1.0, 0.9, 0.9]"),
        ("schedule", "skip = []"),
        ("easycache", "threshold = 0.0"),
    ] {
        let plan = format!("[[cache]]\nstrategy = '{strategy}'\n{keys}");
        let mut session = session(&plan, &model().meta(), &run());
        assert_same(&plan, &latents(&mut session), &dense);
        assert_eq!((skipped(&session), session.log().records().len()), ([0, 0], 2 * STEPS), "{plan}");
    }
}

#[test]
fn metadata_of_another_size_is_an_error() {
    let (model, (text, mask)) = (model(), prompt("cond"));
    let t = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let mut session = session("[[cache]]\nstrategy = 'fbcache'", &META, &run());
    let mut pass = session.pass(&run().step(0), Branch::Cond);
    let error = model.forward(&noise(), &t, (&text, &mask), &mut pass).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("6 blocks") && message.contains("\"layers\" of 30 blocks"), "{message}");
    assert!(hint::of(&error).is_some_and(|hint| hint.contains("with_blocks")), "{message}");
}
