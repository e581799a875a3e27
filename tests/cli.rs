//! The program as a user meets it: exit codes, messages, files, and what scripts may rely on.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use program::{answer as json, copy, magcache, refused, tiny};
use serde_json::Value;

const QUICK: [&str; 5] = ["run", "--steps", "8", "--frames", "5"];

fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&QUICK[..], more].concat()
}

#[test]
fn bad_values_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    refused(&["run", "--steps", "0"], d, &["steps"]);
    refused(&["run", "--size", "70x64"], d, &["width 70", "multiple of 8", "hint: the nearest is 72"]);
    refused(&["run", "--frames", "6"], d, &["6 frames", "hint: try 5 or 9"]);
    refused(&["run", "--guidance=-1"], d, &["guidance is -1"]);
    refused(&["run", "--flow-shift", "nan"], d, &["shift"]);
    refused(&["run", "--sampler", "unipx"], d, &["unknown sampler \"unipx\"", "did you mean \"unipc\"?"]);
    refused(
        &["run", "--cache", "magcash"],
        d,
        &["unknown strategy \"magcash\"", "did you mean \"magcache\"?"],
    );
    refused(
        &["run", "--cache", "magcache", "--set", "treshold=0.1"],
        d,
        &["unknown key `treshold`", "did you mean `threshold`?"],
    );
    refused(
        &["run", "--cache", "magcache", "--set", "warmup=1.5"],
        d,
        &["`warmup` is 1.5", "between 0 and 1"],
    );
    refused(
        &["run", "--cache", "magcache", "--profile", "wan2.1-t2v-1.4b"],
        d,
        &["unknown profile", "did you mean"],
    );
    refused(&["run", "--device", "tpu"], d, &["unknown device"]);
    refused(&["run", "--out", "video.avi"], d, &[".avi"]);
    refused(&["run", "--out", "/proc/nowhere/video.mp4"], d, &["/proc", "cannot write"]);
    refused(&["run", "--model", "no-such-folder"], d, &["no-such-folder"]);
    let long = "word ".repeat(20_000);
    refused(&["run", "--prompt", &long], d, &["100000 characters", "20000"]);
}

#[test]
fn a_configuration_file_is_read_strictly() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let case = |name: &str, toml: &str, expected: &[&str]| {
        fs::write(d.join(name), toml).unwrap();
        refused(&["run", "--config", name], d, &[&[name][..], expected].concat());
    };
    case("syntax.toml", "[sampling\nsteps = 3", &[]);
    case("key.toml", "[sampling]\nstep = 3", &["unknown key `step`", "did you mean `steps`?"]);
    case("type.toml", "[sampling]\nsteps = \"three\"", &["steps"]);
    let cache = |name: &str, toml: &str, expected: &[&str]| {
        fs::write(d.join(name), toml).unwrap();
        refused(&["run", "--config", name], d, expected);
    };
    cache("nan.toml", "[[cache]]\nstrategy = \"magcache\"\nratios = [1.0, nan]", &["ratios.cond[1]", "NaN"]);
    cache(
        "lengths.toml",
        "[[cache]]\nstrategy = \"magcache\"\nratios = { cond = [1.0, 0.9], uncond = [1.0] }",
        &["`ratios.uncond` has 1 value, `steps` is 2"],
    );
    cache("model.toml", "model = \"wan2.1-t2v\"", &["no weights", "hint:"]);
    let profile = "name = \"short\"\n[[curve]]\nsteps = 3\n[curve.ratios]\ncond = [1.0, 0.9]\n";
    fs::write(d.join("short.toml"), profile).unwrap();
    refused(
        &["run", "--cache", "magcache", "--profile", "short.toml"],
        d,
        &["`ratios.cond` has 2 values, `steps` is 3"],
    );
    refused(&["run", "--config", "absent.toml"], d, &["absent.toml"]);
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_fault_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let model = d.join("model");
    copy(&tiny("wan2.1-t2v-tiny"), &model);
    let weights = model.join("transformer/diffusion_pytorch_model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let run = quick(&["--model", "model"]);

    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    refused(&run, d, &["diffusion_pytorch_model.safetensors"]);
    fs::write(&weights, b"not a checkpoint").unwrap();
    refused(&run, d, &["diffusion_pytorch_model.safetensors"]);
    fs::remove_file(&weights).unwrap();
    refused(&run, d, &["transformer"]);

    // The header is JSON, preceded by its length: edit it in place without changing that length.
    let rewritten = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    fs::write(&weights, rewritten("blocks.0.ffn.net.2.bias", "blocks.0.ffn.net.2.bear")).unwrap();
    refused(&run, d, &["blocks.0.ffn.net.2.bias"]);
    fs::write(&weights, rewritten("\"dtype\":\"F32\"", "\"dtype\":\"I32\"")).unwrap();
    refused(&run, d, &["I32"]);

    fs::write(&weights, &whole).unwrap();
    let config = model.join("transformer/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"ffn_dim\": 384", "\"ffn_dim\": 392")).unwrap();
    refused(&run, d, &["392", "384"]);
    fs::write(&config, text.replace("WanTransformer3DModel", "FluxTransformer2DModel")).unwrap();
    refused(&run, d, &["FluxTransformer2DModel"]);
    fs::write(&config, &text).unwrap();
    let index = model.join("model_index.json");
    fs::write(&index, fs::read_to_string(&index).unwrap().replace("WanPipeline", "WanPipelone")).unwrap();
    refused(&run, d, &["WanPipelone", "WanPipeline"]);
}

#[test]
fn schedule_says_what_run_does() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (i, set) in [
        &["threshold=0.12"][..],
        &["threshold=0.3", "max_skips=4", "warmup=1"],
        &["threshold=0.05", "last_steps=2", "dialect=diffusers"],
    ]
    .into_iter()
    .enumerate()
    {
        let sets: Vec<&str> = set.iter().flat_map(|s| ["--set", s]).collect();
        let run = ["--steps", "12", "--frames", "5", "--cache", "magcache"];
        let planned = json(&[&["schedule"][..], &run, &sets].concat(), d);
        let file = format!("{i}.mp4");
        let done = json(&[&["run", "--out", &file][..], &run, &sets].concat(), d);
        assert_eq!(planned["skipped"], done["skipped"], "{set:?}");
        assert!(planned["ceiling"].as_f64().unwrap() > 1.0, "{set:?} skips nothing");
        assert_eq!(planned["ceiling"], done["ceiling"]);
    }
}

#[test]
fn published_schedules_come_out_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let set = ["--set", "threshold=0.04", "--set", "max_skips=2", "--set", "warmup=0.2"];
    let t2v = [
        "schedule",
        "--profile",
        "wan2.2-t2v-a14b",
        "--steps",
        "40",
        "--flow-shift",
        "12",
        "--boundary",
        "0.875",
    ];
    let found = json(&[&t2v[..], &["--cache", "magcache"], &set].concat(), dir.path());
    let expected = serde_json::json!([5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24, 28, 29, 31, 33]);
    assert_eq!(found["skipped"]["cond"], expected);
    assert_eq!(found["skipped"]["uncond"], expected);
    assert_eq!(found["experts"][0]["end"], 26);
    let wan = ["schedule", "--profile", "wan2.1-t2v-1.3b", "--steps", "50", "--cache", "magcache"];
    let found = json(&wan, dir.path());
    assert_eq!(found["skipped"]["cond"].as_array().unwrap().len(), 25);
}

#[test]
fn the_stored_configuration_reproduces_the_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    json(&quick(&["--cache", "fbcache", "--seed", "7", "--out", "a.mp4"]), d);
    let stored = fs::read_to_string(d.join("a.mp4.toml")).unwrap();
    fs::write(d.join("again.toml"), stored.replace("a.mp4", "b.mp4")).unwrap();
    json(&["run", "--config", "again.toml"], d);
    assert_eq!(fs::read(d.join("a.mp4")).unwrap(), fs::read(d.join("b.mp4")).unwrap());
    json(&quick(&["--cache", "fbcache", "--seed", "8", "--out", "c.mp4"]), d);
    assert_ne!(fs::read(d.join("a.mp4")).unwrap(), fs::read(d.join("c.mp4")).unwrap());
}

#[test]
fn a_trace_replays() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let first = json(
        &quick(&["--cache", "fbcache", "--set", "threshold=0.3", "--trace", "t.jsonl", "--out", "a.gif"]),
        d,
    );
    let trace = fs::read_to_string(d.join("t.jsonl")).unwrap();
    assert_eq!(trace.lines().count(), 16, "one line for every pass");
    let line: Value = serde_json::from_str(trace.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["strategy"], &line["branch"], &line["decision"]),
        (&"fbcache".into(), &"cond".into(), &"compute".into())
    );
    let again = json(&quick(&["--cache", "replay:t.jsonl", "--out", "b.gif"]), d);
    assert!(!first["skipped"]["cond"].as_array().unwrap().is_empty());
    assert_eq!(first["skipped"], again["skipped"]);
    assert_eq!(fs::read(d.join("a.gif")).unwrap(), fs::read(d.join("b.gif")).unwrap());
}

#[test]
fn caches_of_whole_forwards_run_and_say_what_they_skip() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let list = |v: &Value| v.as_array().map_or(0, Vec::len);
    for (strategy, cond_too) in [("easycache", true), ("sencache", true), ("cfg-cache", false)] {
        let ran =
            json(&["run", "--frames", "5", "--cache", strategy, "--trace", "t.jsonl", "--overwrite"], d);
        let (cond, uncond) = (list(&ran["skipped"]["cond"]), list(&ran["skipped"]["uncond"]));
        assert!(uncond >= 5 && cond == if cond_too { uncond } else { 0 }, "{strategy}: {}", ran["skipped"]);
        let ceiling = 60.0 / (60 - cond - uncond) as f64;
        assert!((ran["ceiling"].as_f64().unwrap() - ceiling).abs() < 1e-9, "{strategy}: {}", ran["ceiling"]);
        let planned = json(&["schedule", "--cache", strategy], d);
        assert_eq!(planned["skipped"].is_null(), cond_too, "{strategy}");
        if !cond_too {
            assert_eq!(planned["skipped"], ran["skipped"]);
        }
        if !cond_too {
            refused(&["run", "--cache", "replay:t.jsonl"], d, &["the strategy's own"]);
        }
    }
    let unguided = ["run", "--cache", "cfg-cache", "--guidance", "1"];
    refused(&unguided, d, &["the run has cond alone", "--guidance N above 1"]);
}

#[test]
fn a_demo_has_its_table_its_videos_and_its_page() {
    let dir = tempfile::tempdir().unwrap();
    let found = json(&["demo", "--out", "demo", "--steps", "10"], dir.path());
    let rows = found["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dense", "magcache", "teacache", "fbcache"]);
    for row in rows {
        let (computed, skipped) = (row["computed"].as_u64().unwrap(), row["skipped"].as_u64().unwrap());
        assert_eq!(computed + skipped, 20, "{row}");
        for key in ["ceiling", "speedup", "transformer_speedup", "seconds", "cache_bytes"] {
            assert!(row[key].is_number(), "{key} of {row}");
        }
    }
    assert!(rows[0]["psnr"].is_null() && rows[1]["ssim"].as_f64().unwrap() <= 1.0);
    for name in names {
        assert!(fs::metadata(dir.path().join(format!("demo/{name}.mp4"))).unwrap().len() > 500);
    }
    let page = fs::read_to_string(dir.path().join("demo/report.html")).unwrap();
    assert_eq!(page.matches("<video").count(), 4);
    let elsewhere = |name: &str| page.matches(name).count();
    assert_eq!(
        ["src=\"http", "href=\"http", "url(http", "@import"].map(elsewhere),
        [0; 4],
        "the page must not need a network"
    );
}

#[test]
fn list_inspect_and_bench_answer() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let list = json(&["list"], d);
    let strategies: Vec<&str> =
        list["strategies"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    for name in ["any-veto", "fbcache", "magcache", "priority", "schedule", "teacache"] {
        assert!(strategies.contains(&name), "{strategies:?}");
    }
    for name in strategies {
        let example = json(&["list", "--example", name], d);
        fs::write(d.join("example.toml"), example["example"].as_str().unwrap()).unwrap();
        let out = magcache(&["run", "--config", "example.toml", "--dry-run"], d);
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let found = json(&["inspect"], d);
    assert_eq!(found["model"], "wan2.1-t2v-tiny");
    assert_eq!(found["class"], "WanPipeline");
    fs::write(d.join("garbage.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7fgarbage").unwrap();
    refused(&["inspect", "garbage.safetensors"], d, &["garbage.safetensors"]);
    let forward = json(&["bench", "forward", "--repeat", "1"], d);
    assert_eq!(forward["tokens"], 320);
    assert!(json(&["bench", "overhead", "--repeat", "1"], d)["metrics"]["relative_l1_ms"].is_number());
    assert!(json(&["bench", "machine", "--repeat", "1"], d)["peak_gflops"].as_f64().unwrap() > 0.0);
    for part in ["vae", "text"] {
        assert!(json(&["bench", part, "--repeat", "1"], d)["median_ms"].is_number(), "{part}");
    }
    let image = json(&["bench", "forward", "--model", "tiny-flux", "--latent", "1x8x8", "--repeat", "1"], d);
    assert_eq!(image["tokens"], 64);
    let cached = json(&["bench", "cache", "--repeat", "1", "--steps", "6"], d);
    assert!(cached["ceiling"].as_f64().unwrap() > 1.0 && cached["skipped_ms"].is_number(), "{cached}");
    for nothing in [["--latent", "0x0x0"], ["--text", "0"]] {
        for model in ["wan2.1-t2v-tiny", "tiny-flux"] {
            let out = magcache(&[&["bench", "forward", "--model", model][..], &nothing].concat(), d);
            assert!(
                !String::from_utf8_lossy(&out.stderr).contains("panicked"),
                "{model} {nothing:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
        }
    }
}

/// The text is the same at every step: its keys and values are computed once per block and prompt.
#[test]
fn keys_and_values_of_the_text_are_computed_once() {
    let dir = tempfile::tempdir().unwrap();
    let uses = |more: &[&str]| {
        let all = [&["run", "--steps", "4", "--overwrite"], more].concat();
        let uses = &json(&all, dir.path())["text_keys_values"];
        (uses["computed"].as_u64(), uses["reused"].as_u64())
    };
    // Six blocks, two prompts, four steps.
    assert_eq!(uses(&["--frames", "5", "--out", "x.gif"]), (Some(12), Some(36)));
    assert_eq!(uses(&["--frames", "5", "--out", "x.gif", "--guidance", "1"]), (Some(6), Some(18)));
    // Skipped steps do not read them.
    let skipped = ["--frames", "5", "--out", "x.gif", "--cache", "schedule", "--set", "skip=[1, 2]"];
    assert_eq!(uses(&skipped), (Some(12), Some(12)));
    assert_eq!(uses(&["--model", "tiny-flux", "--out", "x.png"]), (None, None));
}

/// candle's operations reproduce every recorded case too, differing from our kernels only in the last bits.
#[test]
fn reference_ops_reproduce_every_case() {
    let dir = tempfile::tempdir().unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden");
    let verify = |more: &[&str]| {
        let all = [&["verify", cases.to_str().unwrap()], more].concat();
        let report = json(&all, dir.path());
        assert_eq!(report["ok"], true, "{report}");
        report
    };
    let errors = |report: &Value, group: &str| -> Vec<f64> {
        let cases = report["cases"].as_array().unwrap().iter();
        let own = cases.filter(|case| case["case"].as_str().unwrap().starts_with(group));
        let calls = own.flat_map(|case| case["calls"].as_array().unwrap());
        calls.map(|call| call["max_abs"].as_f64().unwrap()).collect()
    };
    let (kernels, plain) = (verify(&[]), verify(&["--reference-ops"]));
    for group in ["transformers/", "text_encoders/", "vaes/", "cache_e2e/"] {
        let (kernels, plain) = (errors(&kernels, group), errors(&plain, group));
        assert_eq!(kernels.len(), plain.len());
        assert!(kernels != plain, "{group} does not depend on --reference-ops");
    }
}

/// A miniature checkpoint in the Wan team's layout, with two experts, in PyTorch files.
fn native_folder(root: &Path) {
    copy(&fixture("native/t2v-a14b/native"), root);
    copy(&tiny("wan2.1-t2v-tiny/tokenizer"), &root.join("google/umt5-xxl"));
}

#[test]
fn inspect_knows_checkpoints_as_their_authors_publish_them() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    native_folder(&d.join("wan"));
    let found = json(&["inspect", "wan"], d);
    assert_eq!((found["layout"].as_str(), found["task"].as_str()), (Some("native"), Some("t2v")));
    assert_eq!((found["experts"].as_u64(), found["boundary_ratio"].as_f64()), (Some(2), Some(0.875)));
    assert_eq!(
        (found["pipeline"].as_str(), &found["missing"]),
        (Some("WanPipeline"), &Value::from(Vec::<Value>::new()))
    );
    let (text, transformer) = (&found["components"]["text_encoder"], &found["components"]["transformer_2"]);
    assert_eq!(
        (text["format"].as_str(), transformer["format"].as_str()),
        (Some("pytorch"), Some("safetensors"))
    );
    assert!(
        text["dtypes"]["BF16"].as_u64() == text["bytes"].as_u64() && text["parameters"].as_u64() > Some(0)
    );

    let file = json(&["inspect", "wan/Wan2.1_VAE.pth"], d);
    assert_eq!(file["layout"], "pytorch");
    assert_eq!(file["part"], "Wan video autoencoder (native names)");
    fs::remove_dir_all(d.join("wan/low_noise_model")).unwrap();
    let found = json(&["inspect", "wan"], d);
    assert!(found["missing"][0].as_str().unwrap().contains("low_noise_model/config.json"), "{found}");
    assert_eq!(found["model"], Value::Null);
    assert!(found["components"]["Wan2.1_VAE.pth"]["bytes"].as_u64() > Some(0));

    let tensors = ["img_in.weight", "vector_in.in_layer.weight", "double_blocks.0.img_mod.lin.weight"];
    let tensors =
        tensors.iter().chain(&["final_layer.linear.weight", "guidance_in.in_layer.bias"]).map(|name| {
            (format!("model.diffusion_model.{name}"), Tensor::zeros(1, DType::BF16, &Device::Cpu).unwrap())
        });
    let tensors: HashMap<String, Tensor> = tensors.collect();
    candle_core::safetensors::save(&tensors, d.join("flux1-dev.safetensors")).unwrap();
    let file = json(&["inspect", "flux1-dev.safetensors"], d);
    assert_eq!(file["part"], "FLUX.1 transformer with guidance (native names)");

    fs::create_dir(d.join("empty")).unwrap();
    refused(&["inspect", "empty"], d, &["empty", "looked for", "model_index.json", "high_noise_model"]);
    fs::write(d.join("code.pth"), fs::read(fixture("torch/shell.pth")).unwrap()).unwrap();
    refused(&["inspect", "code.pth"], d, &["code.pth", "posix.system", "nothing of it was run"]);
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)
}

#[test]
fn errors_are_readable_by_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let out = magcache(&["run", "--cache", "magcash", "--json"], dir.path());
    assert_eq!(out.status.code(), Some(2));
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(document["error"].as_str().unwrap().contains("magcash"));
    assert!(document["causes"].is_array());
    assert_eq!(document["hint"], "did you mean \"magcache\"?");
}

#[test]
fn a_failed_run_leaves_an_existing_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("keep.mp4"), b"mine").unwrap();
    refused(&quick(&["--out", "keep.mp4", "--size", "30x30"]), dir.path(), &["width 30"]);
    assert_eq!(fs::read(dir.path().join("keep.mp4")).unwrap(), b"mine");
}
