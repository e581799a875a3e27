//! `list`, `inspect` and `bench`.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::program::{Shell, copy, fixture, list, tiny};

#[test]
fn every_strategy_is_listed_with_an_example_that_runs() {
    let sh = Shell::new();
    let found = sh.answer("list");
    let strategies: Vec<_> = list(&found["strategies"]).iter().map(|s| s["name"].as_str().unwrap()).collect();
    for name in ["any-veto", "fbcache", "magcache", "priority", "schedule", "teacache"] {
        assert!(strategies.contains(&name), "{strategies:?}");
    }
    for name in strategies {
        let example = sh.answer(format!("list --example {name}"));
        sh.write("example.toml", example["example"].as_str().unwrap());
        sh.said("run --config example.toml --dry-run");
    }
}

#[test]
fn bench_measures_every_part() {
    let sh = Shell::new();
    let bench = |what: &str| sh.answer(format!("bench {what} --repeat 1"));
    assert_eq!(bench("forward")["tokens"], 320);
    assert_eq!(bench("forward --model tiny-flux --latent 1x8x8")["tokens"], 64);
    assert!(bench("overhead")["metrics"]["relative_l1_ms"].is_number());
    assert!(bench("machine")["peak_gflops"].as_f64().unwrap() > 0.0);
    assert!(bench("vae")["median_ms"].is_number());
    assert!(bench("text")["median_ms"].is_number());
    let cached = bench("cache --steps 6");
    assert!(cached["ceiling"].as_f64().unwrap() > 1.0 && cached["skipped_ms"].is_number(), "{cached}");
    for nothing in ["--latent 0x0x0", "--text 0"] {
        for model in ["wan2.1-t2v-tiny", "tiny-flux"] {
            let out = sh.run(format!("bench forward --model {model} {nothing}"));
            let told = String::from_utf8_lossy(&out.stderr);
            assert!(!told.contains("panicked"), "{model} {nothing}: {told}");
        }
    }
}

#[test]
fn a_checkpoint_is_known_as_its_authors_publish_it() {
    let sh = Shell::new();
    let embedded = sh.answer("inspect");
    assert_eq!((&embedded["model"], &embedded["class"]), (&json!("wan2.1-t2v-tiny"), &json!("WanPipeline")));

    // A miniature checkpoint in the Wan team's layout, with two experts, in PyTorch files.
    copy(&fixture("native/t2v-a14b/native"), &sh.path("wan"));
    copy(&tiny("wan2.1-t2v-tiny/tokenizer"), &sh.path("wan/google/umt5-xxl"));
    let found = sh.answer("inspect wan");
    for (key, value) in [
        ("layout", json!("native")),
        ("task", json!("t2v")),
        ("experts", json!(2)),
        ("boundary_ratio", json!(0.875)),
        ("pipeline", json!("WanPipeline")),
        ("missing", json!([])),
    ] {
        assert_eq!(found[key], value, "{key}");
    }
    let (text, transformer) = (&found["components"]["text_encoder"], &found["components"]["transformer_2"]);
    assert_eq!([&text["format"], &transformer["format"]], ["pytorch", "safetensors"]);
    assert_eq!(text["dtypes"]["BF16"].as_u64(), text["bytes"].as_u64());
    assert!(text["parameters"].as_u64() > Some(0));

    let file = sh.answer("inspect wan/Wan2.1_VAE.pth");
    assert_eq!([&file["layout"], &file["part"]], ["pytorch", "autoencoder of Wan2.1"]);
    fs::remove_dir_all(sh.path("wan/low_noise_model")).unwrap();
    let found = sh.answer("inspect wan");
    assert!(found["missing"][0].as_str().unwrap().contains("low_noise_model/config.json"), "{found}");
    assert_eq!(found["model"], Value::Null);
    assert!(found["components"]["Wan2.1_VAE.pth"]["bytes"].as_u64() > Some(0));

    let names = [
        "img_in.weight",
        "vector_in.in_layer.weight",
        "double_blocks.0.img_mod.lin.weight",
        "final_layer.linear.weight",
        "guidance_in.in_layer.bias",
    ];
    let zeros = |name| {
        (format!("model.diffusion_model.{name}"), Tensor::zeros(1, DType::BF16, &Device::Cpu).unwrap())
    };
    let tensors: HashMap<String, Tensor> = names.map(zeros).into();
    candle_core::safetensors::save(&tensors, sh.path("flux1-dev.safetensors")).unwrap();
    let file = sh.answer("inspect flux1-dev.safetensors");
    assert_eq!(file["part"], "FLUX.1 transformer with guidance (native names)");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let sh = Shell::new();
    sh.write("garbage.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7fgarbage");
    sh.refused("inspect garbage.safetensors", ["garbage.safetensors"]);
    sh.inside("empty");
    sh.refused("inspect empty", ["empty", "looked for", "model_index.json", "high_noise_model"]);
    fs::copy(fixture("torch/shell.pth"), sh.path("code.pth")).unwrap();
    sh.refused("inspect code.pth", ["code.pth", "posix.system", "nothing of it was run"]);
}
