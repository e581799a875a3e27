//! Qwen-Image's network on random weights: what recorded cases do not show.

use std::{collections::HashMap, sync::Arc};

use candle_core::{D, Device, Result, Tensor};
use magcache_core::{BlockHook, Branch, Cx, HookRegistry, Next, Output, Pass, Step, Streams};
use magcache_models::{
    checkpoint::{Folder, WeightDtype, Weights},
    pipeline::Denoiser,
    qwen_image::{QwenImageConfig, QwenImageDenoiser, QwenImagePrompt, QwenImageTransformer},
};

const WIDTH: usize = 16;
const TEXT: usize = 6;

/// Values that look random: `i` of the tensor number `seed`.
fn random(seed: usize, shape: &[usize]) -> Tensor {
    let values = (0..shape.iter().product()).map(|i: usize| ((seed * 131 + i) as f32 * 0.7).sin() * 0.3);
    Tensor::from_iter(values, &Device::Cpu).and_then(|x| x.reshape(shape)).unwrap()
}

/// A network of two blocks.
fn network(zero_cond_t: bool) -> QwenImageTransformer {
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut linear = |name: &str, inputs: usize, outputs: usize| {
        shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
        shapes.push((format!("{name}.bias"), vec![outputs]));
    };
    linear("img_in", 16, WIDTH);
    linear("txt_in", TEXT, WIDTH);
    linear("norm_out.linear", WIDTH, 2 * WIDTH);
    linear("proj_out", WIDTH, 16);
    linear("time_text_embed.timestep_embedder.linear_1", 256, WIDTH);
    linear("time_text_embed.timestep_embedder.linear_2", WIDTH, WIDTH);
    for block in (0..2).map(|i| format!("transformer_blocks.{i}")) {
        for stream in ["img", "txt"] {
            linear(&format!("{block}.{stream}_mod.1"), WIDTH, 6 * WIDTH);
            linear(&format!("{block}.{stream}_mlp.net.0.proj"), WIDTH, 4 * WIDTH);
            linear(&format!("{block}.{stream}_mlp.net.2"), 4 * WIDTH, WIDTH);
        }
        for name in
            ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"]
        {
            linear(&format!("{block}.attn.{name}"), WIDTH, WIDTH);
        }
    }
    shapes.push(("txt_norm.weight".to_owned(), vec![TEXT]));
    for block in 0..2 {
        for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            shapes.push((format!("transformer_blocks.{block}.attn.{norm}.weight"), vec![8]));
        }
    }
    let tensors = shapes.into_iter().enumerate().map(|(i, (name, shape))| (name, random(i, &shape)));
    let root = tempfile::tempdir().unwrap();
    let tensors: HashMap<String, Tensor> = tensors.collect();
    candle_core::safetensors::save(&tensors, root.path().join("model.safetensors")).unwrap();
    let folder = Folder::open(root.path()).unwrap();
    let files = ["model.safetensors"];
    let weights = Weights::open_files(&folder, &files, &Device::Cpu, WeightDtype::Keep).unwrap();
    let config = format!(
        r#"{{"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 16,
            "out_channels": 4, "joint_attention_dim": {TEXT}, "axes_dims_rope": [2, 2, 4],
            "zero_cond_t": {zero_cond_t}}}"#
    );
    QwenImageTransformer::load(&weights, QwenImageConfig::from_json(&config).unwrap()).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// The prediction for a target of 2x3 tokens beside a picture of 2x2.
fn predict(network: &QwenImageTransformer, timestep: f32, pass: &mut Pass<'_>) -> Result<Tensor> {
    let prompt = QwenImagePrompt::new(network, &random(99, &[1, 5, TEXT]), &[[2, 3], [2, 2]])?;
    let timestep = Tensor::new(&[timestep], &Device::Cpu)?;
    network.forward(&random(98, &[1, 10, 16]), &timestep, &prompt.context, &prompt.positions, pass)
}

#[test]
fn pictures_are_modulated_as_at_timestep_0_in_one_edition() -> Result<()> {
    let (plain, clean) = (network(false), network(true));
    let at = |timestep| -> Result<f32> {
        let own = predict(&clean, timestep, &mut Pass::off())?;
        Ok(difference(&predict(&plain, timestep, &mut Pass::off())?, &own))
    };
    assert!(at(0.0)? < 1e-6, "{}", at(0.0)?);
    assert!(at(0.5)? > 1e-3, "{}", at(0.5)?);
    Ok(())
}

/// Passes everything on.
#[derive(Debug)]
struct Through;

impl BlockHook for Through {
    fn call(&self, cx: &mut Cx<'_>, x: Streams, next: Next<'_>) -> Result<Output> {
        next.run(cx, x)
    }
}

#[test]
fn modules_that_hooks_surround_give_what_the_whole_gives() -> Result<()> {
    for network in [network(false), network(true)] {
        let whole = predict(&network, 0.7, &mut Pass::off())?;
        for module in ["attn", "img_mlp", "txt_mlp"] {
            let hooks = HookRegistry::builder(2).module(module, Arc::new(Through)).build();
            let got = predict(&network, 0.7, &mut hooks.session().pass(&Step::plain(0, 1), Branch::Cond))?;
            assert!(difference(&whole, &got) < 1e-6, "{module}: {}", difference(&whole, &got));
        }
    }
    Ok(())
}

#[test]
fn branches_have_texts_of_their_own_and_tokens_keep_their_norms() -> Result<()> {
    let network = Arc::new(network(false));
    let prompt = |tokens| QwenImagePrompt::new(&network, &random(tokens, &[1, tokens, TEXT]), &[[2, 3]]);
    let denoiser = QwenImageDenoiser::new(Arc::clone(&network), prompt(7)?, Some(prompt(3)?), 4.0);
    let (latents, step) = (random(5, &[1, 6, 16]), Step::plain(0, 4));
    let [cond, uncond] = [Branch::Cond, Branch::Uncond]
        .map(|branch| denoiser.predict(&latents, &step, branch, &mut Pass::off()).unwrap());
    assert!(difference(&cond, &uncond) > 1e-3);
    let guided = denoiser.guide(&step, &cond, &uncond)?;
    let norms = |x: &Tensor| x.sqr().and_then(|x| x.sum(D::Minus1)).and_then(|x| x.sqrt()).unwrap();
    assert!(difference(&norms(&guided), &norms(&cond)) < 1e-5);
    assert!(difference(&guided, &cond) > 1e-3);
    Ok(())
}

#[test]
fn what_does_not_fit_is_told_with_both_numbers() {
    let network = network(false);
    let prompt = QwenImagePrompt::new(&network, &random(1, &[1, 4, TEXT]), &[[2, 2]]).unwrap();
    let timestep = Tensor::new(&[0.5f32], &Device::Cpu).unwrap();
    let run = |tokens: usize| {
        let x = random(2, &[1, tokens, 16]);
        network.forward(&x, &timestep, &prompt.context, &prompt.positions, &mut Pass::off())
    };
    assert!(run(4).is_ok());
    let message = run(6).unwrap_err().to_string();
    assert!(message.contains("6 image tokens, and ids for 4 and 4"), "{message}");
}
