//! The model obeys the rules for hooks, and the mistakes that the guide names are detected.

mod support;

use candle_core::{Device, Result, Tensor};
use magcache_core::{Branch, CachePlan, Pass, Step, Streams, meta, state::HookId, testing};
use magcache_models::checkpoint::{Folder, WeightDtype, Weights};
use magcache_plugin_mini::{META, Mini};

fn model() -> Mini {
    let folder = tempfile::tempdir().unwrap();
    support::write_checkpoint(folder.path()).unwrap();
    let folder = Folder::open(folder.path()).unwrap().sub("transformer");
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).unwrap();
    let missing = Mini::load(&weights, support::BLOCKS + 1).unwrap_err().to_string();
    assert!(missing.contains("blocks.8.weight"), "{missing}");
    Mini::load(&weights, support::BLOCKS).unwrap()
}

fn wave(tokens: usize, phase: f64) -> Result<Tensor> {
    let at = |i: usize| ((i as f64 * 0.3 + phase).sin()) as f32;
    Tensor::from_vec((0..tokens * 16).map(at).collect(), (1, tokens, 16), &Device::Cpu)
}

#[test]
fn the_model_keeps_the_rules_of_hooks() {
    let model = model();
    let (latents, text) = (wave(6, 0.0).unwrap(), wave(3, 1.0).unwrap());
    testing::check_model(support::BLOCKS, |pass| model.forward(&latents, 500.0, &text, pass));
    magcache_plugin_mini::link();
    assert_eq!(meta::model("mini").unwrap(), &META);
}

#[test]
#[should_panic(expected = "rule")]
fn the_whole_model_as_one_block_is_found() {
    let model = model();
    let (latents, text) = (wave(6, 0.0).unwrap(), wave(3, 1.0).unwrap());
    let whole = |pass: &mut Pass<'_>| {
        let probe = |_, x: &Streams| x.image();
        let x = Streams::Image(latents.clone());
        // wrong: the hooks see one block that is the whole model, so ranges and forced blocks cannot work
        let y =
            pass.run(1, &probe, x, |_, x| x.map_image(|x| model.forward(x, 500.0, &text, &mut Pass::off())))?;
        y.into_image()
    };
    testing::check_model(support::BLOCKS, whole);
}

#[test]
fn two_passes_of_one_branch_are_one_pass() {
    magcache_strategies::link();
    let model = model();
    let (latents, cond, uncond) = (wave(6, 0.0).unwrap(), wave(3, 1.0).unwrap(), wave(3, 2.0).unwrap());
    let plan = CachePlan::parse("[[cache]]\nstrategy = \"fbcache\"\nthreshold = 9.0\nwarmup = 0").unwrap();
    let skipped = |passes: [(&Tensor, Branch); 2]| {
        let mut session = plan.build(&META, None).unwrap().registry.session();
        for (index, (text, branch)) in (0..4).flat_map(|index| passes.map(|pass| (index, pass))) {
            let step = Step::plain(index, 4);
            let t = step.timestep;
            model.forward(&latents, t, text, &mut session.pass(&step, branch)).unwrap();
        }
        [Branch::Cond, Branch::Uncond].map(|branch| session.log().reused(HookId(0), branch).count())
    };
    let right = [(&cond, Branch::Cond), (&uncond, Branch::Uncond)];
    assert_eq!(skipped(right), [2, 2]);
    // wrong: both guidance passes as `Cond` share a slot, and each reuses the other's residual
    let wrong = [(&cond, Branch::Cond), (&uncond, Branch::Cond)];
    assert_eq!(skipped(wrong), [2, 0]);
}
