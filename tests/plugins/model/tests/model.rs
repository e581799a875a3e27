//! The model keeps the rules of hooks, and a registered strategy runs on it from a few lines of TOML.

use candle_core::{Device, Result, Tensor};
use magcache_core::{Branch, CachePlan, Pass, Step, meta, state::HookId, testing};
use magcache_plugin_mini::{META, Mini};

const CACHE: &str = r#"
    [[cache]]
    strategy = "fbcache"
    threshold = 0.1
"#;

fn wave(tokens: usize, phase: f64) -> Result<Tensor> {
    let at = |i: usize| ((i as f64 * 0.3 + phase).sin()) as f32;
    Tensor::from_vec((0..tokens * 16).map(at).collect(), (1, tokens, 16), &Device::Cpu)
}

/// Twenty Euler steps; the prediction of the last one.
fn sample(
    model: &Mini,
    mut pass_of: impl FnMut(Step, &mut dyn FnMut(&mut Pass<'_>) -> Result<()>),
) -> Tensor {
    let text = wave(3, 1.0).unwrap();
    let mut latents = wave(6, 0.0).unwrap();
    for index in 0..20 {
        let step = Step::plain(index, 20);
        let timestep = step.timestep;
        pass_of(step, &mut |pass| {
            let velocity = model.forward(&latents, timestep, &text, pass)?;
            latents = (&latents - (velocity * 0.02)?)?;
            Ok(())
        });
    }
    latents
}

#[test]
fn the_model_keeps_the_rules_of_hooks() {
    let model = Mini::new().unwrap();
    let (latents, text) = (wave(6, 0.0).unwrap(), wave(3, 1.0).unwrap());
    testing::check_model(META.blocks(), |pass| model.forward(&latents, 500.0, &text, pass));
    magcache_plugin_mini::link();
    assert_eq!(meta::model("mini").unwrap(), &META);
}

#[test]
fn a_strategy_from_toml_skips_and_stays_near() {
    magcache_strategies::link();
    let model = Mini::new().unwrap();
    let plan = CachePlan::parse(CACHE).unwrap();
    let mut session = plan.build(&META, None).unwrap().registry.session();
    let plain = sample(&model, |_, run| run(&mut Pass::off()).unwrap());
    let cached = sample(&model, |step, run| run(&mut session.pass(step, Branch::Cond)).unwrap());
    let skipped = session.log().reused(HookId(0), Branch::Cond).count();
    assert!(skipped > 3, "{skipped} of 20 steps");
    let distance = magcache_core::metrics::relative_l1(&cached, &plain).unwrap();
    assert!(distance > 0.0 && distance < 0.05, "{distance}");
}
