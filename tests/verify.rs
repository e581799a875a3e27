//! `magcache verify` on every reference case of this repository, and on damaged copies.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use magcache_cli::verify::{self, CaseReport, VerifyReport};
use magcache_models::checkpoint::Ops;
use serde_json::Value;
use tempfile::TempDir;

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(folder)
}

fn run(path: &Path) -> VerifyReport {
    verify::run(&[path.to_owned()], false, Ops::Kernels).unwrap()
}

/// A copy of a case or a table for a test to change, with the model where it is.
fn copy(case: &str) -> TempDir {
    fn all(from: &Path, to: &Path) {
        if from.is_dir() {
            fs::create_dir_all(to).unwrap();
            for entry in fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                all(&entry.path(), &to.join(entry.file_name()));
            }
        } else {
            fs::copy(from, to).unwrap();
        }
    }
    let root = tempfile::tempdir().unwrap();
    let from = fixtures(case);
    let to = root.path().join(from.file_name().unwrap());
    all(&from, &to);
    if to.is_dir() && to.join("case.json").exists() {
        edit_json(&to.join("case.json"), |json| {
            let absolute = |path: &mut Value| *path = from.join(path.as_str().unwrap()).to_str().into();
            json.get_mut("model_folder").map(absolute);
            json.get_mut("parts")
                .into_iter()
                .flat_map(|parts| parts.as_object_mut().unwrap().values_mut())
                .for_each(absolute);
        });
    }
    root
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, json.to_string()).unwrap();
}

fn edit_tensors(case: &Path, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let file = case.join("golden.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, &file).unwrap();
}

/// Adds `by` to the last value of a tensor.
fn nudge(tensors: &mut HashMap<String, Tensor>, key: &str, by: f32) {
    let tensor = &tensors[key];
    let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    *values.last_mut().unwrap() += by;
    let changed = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap();
    tensors.insert(key.to_owned(), changed);
}

/// The failed comparisons, as `name/output`.
fn failed(report: &VerifyReport) -> Vec<String> {
    assert_eq!(report.ok, report.cases.iter().all(|case| case.ok));
    let calls = report.cases.iter().flat_map(|case| &case.calls);
    calls.filter(|call| !call.ok).map(|call| format!("{}/{}", call.name, call.output)).collect()
}

#[test]
fn every_case_of_this_repository_is_reproduced() {
    let folders = ["golden", "vae", "flux_text", "tokenizer"].map(fixtures);
    let report = verify::run(&folders, false, Ops::Kernels).unwrap();
    assert_eq!(failed(&report), [""; 0], "{report}");
    assert!(report.ok, "{report}");
    let groups = [
        ("cache_e2e", 3),
        ("cache_tables", 6),
        ("fp8", 1),
        ("gguf", 1),
        ("lora", 1),
        ("pictures", 1),
        ("prompts", 3),
        ("schedulers", 14),
        ("single_file", 1),
        ("strategy_tables", 1),
        ("text_encoders", 5),
        ("tokenizers", 4),
        ("transformers", 5),
        ("vaes", 3 + 3),
    ];
    for (group, cases) in groups {
        let of: Vec<&CaseReport> =
            report.cases.iter().filter(|case| case.case.starts_with(&format!("{group}/"))).collect();
        assert_eq!(of.len(), cases, "{group}");
        let unread =
            of.iter().flat_map(|case| &case.calls).filter(|call| call.output == "tensors left unread");
        let networks = ["text_encoders", "transformers", "vaes"].contains(&group);
        assert_eq!(unread.count(), if networks { cases } else { 0 }, "{group}");
    }
}

#[test]
fn whole_runs_of_every_kind_of_model_are_reproduced() {
    for (folder, cases, by_output) in [
        ("pipelines", 8, [("task", 8), ("latents with experts from disk", 8), ("image", 0)]),
        ("flux_pipelines", 10, [("task", 0), ("latents with experts from disk", 0), ("image", 10)]),
    ] {
        let report = run(&fixtures(folder));
        assert_eq!(failed(&report), [""; 0], "{report}");
        assert_eq!(report.cases.len(), cases, "{report}");
        for (output, count) in by_output.into_iter().chain([("latents", cases), ("passes", cases)]) {
            let calls = report.cases.iter().flat_map(|case| &case.calls).filter(|call| call.output == output);
            assert_eq!(calls.count(), count, "{output}: {report}");
        }
    }
}

#[test]
fn files_of_weights_are_compared_call_by_call() {
    let root = copy("golden/lora/wan_t2v");
    let case = root.path().join("wan_t2v");
    edit_tensors(&case, |tensors| {
        nudge(tensors, "style.sample", 1e-3);
        nudge(tensors, "distill.fused.blocks.0.attn1.to_q.bias", 1e-4);
    });
    // The adapter is refused for another reason than the recorded one.
    fs::copy(case.join("errors/dora.safetensors"), case.join("errors/lokr.safetensors")).unwrap();
    let told = failed(&run(&case));
    for part in ["style (style_kohya", "distill (distill_lightx2v", "lokr/refused"] {
        assert!(told.iter().any(|line| line.starts_with(part)), "{part}: {told:?}");
    }
    assert!(!told.iter().any(|line| line.starts_with("none")), "{told:?}");
}

#[test]
fn a_table_of_another_kind_is_left_out_by_name() {
    let root = copy("golden/cache_tables/interpolation.json");
    fs::write(root.path().join("other.json"), r#"{ "rows": [{ "path": "a", "decisions": "001" }] }"#)
        .unwrap();
    let report = run(root.path());
    let of = |name: &str| report.cases.iter().find(|case| case.case.ends_with(name)).unwrap();
    assert!(of("interpolation").ok, "{report}");
    let why = of("other").skipped.as_deref().unwrap();
    assert!(why.contains("decisions, path"), "{why}");
}

#[test]
fn noise_levels_and_timesteps_are_equal_to_the_last_bit() {
    let mut compared = 0;
    for folder in ["samplers", "golden/schedulers"].map(fixtures) {
        let report = run(&folder);
        assert_eq!(failed(&report), [""; 0], "{report}");
        let calls = report.cases.iter().flat_map(|case| &case.calls);
        for call in calls.filter(|call| ["sigmas", "timesteps"].contains(&call.output.as_str())) {
            assert_eq!(call.max_abs, 0.0, "{} {}", call.name, call.output);
            compared += 1;
        }
    }
    assert_eq!(compared, 2 * (39 + 20));
}

#[test]
fn cached_runs_are_compared_decision_by_decision() {
    let report = run(&fixtures("golden/cache_e2e/wan_t2v"));
    let case = &report.cases[0];
    for (runs, prefix) in [(1, "dense"), (10, "mag_"), (3, "fbc_"), (4, "tea_"), (5, "taylor_")] {
        let of = |output: &str| {
            case.calls.iter().filter(|c| c.name.starts_with(prefix) && c.output == output).count()
        };
        assert_eq!([of("decisions cond"), of("decisions uncond"), of("latents")], [runs; 3], "{prefix}");
    }
    assert_eq!(case.calls.iter().filter(|c| c.output.starts_with("ratios.")).count(), 2);
    // One run forecasts the attention inside every block and skips no block.
    let inside = case.calls.iter().filter(|c| c.output.ends_with("inside block 3"));
    let inside: Vec<&str> = inside.map(|c| c.name.as_str()).collect();
    assert_eq!(inside, ["taylor_attn_o1"; 2]);
    assert!(case.not_compared.is_empty(), "{:?}", case.not_compared);
}

#[test]
fn a_tensor_that_is_off_by_a_thousandth_fails_alone() {
    // What is compared with the same tensor a second time is the third column.
    for (case, keys, also) in [
        ("golden/transformers/wan21_t2v", &["b1_odd.sample", "b1_odd.trace.blocks.1.out"][..], ""),
        ("golden/transformers/wan21_t2v", &["b1_odd.trace.temb", "b1_odd.trace.rope.sin"], ""),
        ("golden/transformers/wan21_t2v", &["b1_odd.trace.blocks.0.ffn.out"], ""),
        ("golden/transformers/wan21_t2v", &["b1_odd.trace.timesteps_proj.out"], ""),
        ("golden/text_encoders/umt5_wan", &["masked_b2.prompt_embeds"], "prompt_embeds one by one"),
        ("golden/text_encoders/umt5_wan", &["positions.bias.2"], ""),
        ("golden/text_encoders/clip_vision_wan_i2v", &["b2.image_embeds"], ""),
        ("golden/text_encoders/clip_text_flux_legacy_eos_seed3", &["b2.pooler_output"], ""),
        ("golden/text_encoders/qwen3_flux2_klein_seed28", &["b2.prompt_embeds"], ""),
        ("golden/vaes/wan_i2v_condition", &["flf2v.condition", "ti2v.timestep_tokens"], ""),
        ("golden/vaes/wan_i2v_condition", &["ti2v.model_input"], "finished latents"),
        ("golden/vaes/wan21_vae_tiling", &["tiled_decode.sample", "tiled_encode.moments"], ""),
        ("golden/vaes/wan21_vae_tiling", &["untiled_decode.sample"], ""),
        ("golden/vaes/wan22_vae", &["encode_t9.trace.chunk2.encoder.down_blocks.1", "decode_t2.sample"], ""),
        ("golden/schedulers/unipc_flow_shift5", &["n20.trajectory"], ""),
        ("golden/schedulers/flow_euler_flux_dev", &["n4_seq1024.sigmas"], ""),
        ("golden/cache_e2e/wan_t2v", &["fbc_low.latents", "mag_calibrate.ratios.uncond"], ""),
        ("vae/flux1_tiny", &["encode.latents", "encode_odd.mode", "tiled_decode.sample"], ""),
        ("vae/flux2_small", &["encode.packed_latents", "decode.sample", "tiled_encode.moments"], ""),
        ("vae/flux2_small", &["packing.patches", "packing.reference_ids"], ""),
        ("vae/wan22_tiling", &["decode.sample", "encode.moments"], ""),
        ("flux_text/flux_prompts", &["pair.prompt_embeds"], ""),
        ("flux_text/flux_prompts", &["rows8.prompt_embeds"], "prompt_embeds one by one"),
        ("flux_text/flux_legacy_pooling", &["all.pooled_prompt_embeds"], ""),
        ("tokenizer/wan_prompts", &["all.prompt_embeds"], "prompt_embeds one by one"),
    ] {
        for key in keys {
            let (call, output) = key.split_once('.').unwrap();
            let outputs = [output.strip_prefix("trace.").unwrap_or(output), also];
            let fails = outputs.into_iter().filter(|output| !output.is_empty());
            let fails: Vec<String> = fails.map(|output| format!("{call}/{output}")).collect();
            let stored = key.strip_prefix("positions.").unwrap_or(key);
            let root = copy(case);
            let folder = root.path().join(case.rsplit('/').next().unwrap());
            for by in [1e-3, f32::NAN] {
                edit_tensors(&folder, |tensors| nudge(tensors, stored, by));
                let report = run(root.path());
                assert_eq!(failed(&report), fails, "{case} {key} {by}");
                let json = serde_json::to_value(&report).unwrap();
                let mut calls = json["cases"][0]["calls"].as_array().unwrap().iter();
                let is_null = calls.any(|call| call["ok"] == false && call["max_abs"].is_null());
                assert_eq!(is_null, by.is_nan(), "{json}");
            }
        }
    }
}

#[test]
fn a_flipped_decision_fails_with_both_rows() {
    for (run_name, branch) in
        [("mag_wan_e012k2r02", "cond"), ("fbc_high", "uncond"), ("tea_e0_i2v720", "cond")]
    {
        let root = copy("golden/cache_e2e/wan_t2v");
        edit_json(&root.path().join("wan_t2v/case.json"), |json| {
            let runs = json["runs"].as_array_mut().unwrap();
            let run = runs.iter_mut().find(|run| run["name"] == run_name).unwrap();
            let skip = &mut run["decisions"][branch]["skip"][9];
            *skip = Value::from(1 - skip.as_u64().unwrap());
        });
        let report = run(root.path());
        assert_eq!(failed(&report), [format!("{run_name}/decisions {branch}")]);
        let call = report.cases[0].calls.iter().find(|call| !call.ok).unwrap();
        assert!((call.max_abs - 1.0).abs() < f64::EPSILON);
        assert!(call.detail.as_ref().unwrap().contains(", expected "), "{call:?}");
    }
}

#[test]
fn a_flipped_row_of_a_table_fails() {
    for (table, change, row) in [
        ("cache_tables/magcache_wan21.json", "/rows/7/decisions/joint", "row 7, "),
        ("cache_tables/teacache.json", "/rows/2/decisions/cond", "row 2, "),
        ("cache_tables/interpolation.json", "/rows/1/index_official/0", "row 1, index_official: "),
    ] {
        let root = copy(&format!("golden/{table}"));
        edit_json(&root.path().join(table.rsplit('/').next().unwrap()), |json| {
            let found = json.pointer(change).cloned();
            let first = format!("{}/{}", change.rsplit_once('/').unwrap().0, "cond");
            let place = if found.is_some() { change } else { &first };
            let value = json.pointer_mut(place).unwrap_or_else(|| panic!("{table} has no {place}"));
            *value = match &value {
                Value::String(row) => {
                    Value::String(row.chars().map(|c| if c == '0' { '1' } else { '0' }).collect())
                }
                other => Value::from(other.as_u64().unwrap() + 1),
            };
        });
        let report = run(root.path());
        assert_eq!(failed(&report), ["rows/decisions"], "{table}");
        let detail = report.cases[0].calls[0].detail.as_ref().unwrap();
        assert!(detail.starts_with(row) && detail.contains(", expected "), "{detail}");
    }
    let root = copy("golden/schedulers/wan22_boundary");
    edit_json(&root.path().join("wan22_boundary/boundary.json"), |json| {
        json["rows"][0]["high_noise_steps"]["diffusers_unipc"][3] = Value::from(99);
    });
    assert_eq!(failed(&run(root.path())), ["shift 3 boundary 0.875/diffusers_unipc"]);
}

#[test]
fn a_picture_and_a_token_that_are_off_fail_alone() {
    let root = copy("golden/pictures/pillow");
    let (folder, changed) = (root.path().join("pillow"), ["file.rgb.png", "scale.lanczos.5x5"]);
    edit_tensors(&folder, |tensors| {
        for key in changed {
            let mut bytes: Vec<u8> = tensors[key].flatten_all().unwrap().to_vec1().unwrap();
            *bytes.last_mut().unwrap() ^= 2;
            let shape = tensors[key].shape().clone();
            tensors.insert(key.to_owned(), Tensor::from_vec(bytes, shape, &Device::Cpu).unwrap());
        }
        nudge(tensors, "frame.24x16", 0.05);
        nudge(tensors, "clip.37x23.pixel_values", 0.05);
    });
    let fails = [
        "clip.37x23.pixel_values/pixels",
        "file.rgb.png/rgb8",
        "frame.24x16/pixels",
        "scale.lanczos.5x5/rgb8",
    ];
    assert_eq!(failed(&run(root.path())), fails);

    for case in ["clip", "qwen3", "wan_unigram", "wan_words"] {
        for (key, output) in [("input_ids", "tokens"), ("chat", "texts"), ("cleaned", "texts")] {
            let root = copy(&format!("golden/tokenizers/{case}"));
            let mut there = false;
            edit_json(&root.path().join(case).join("case.json"), |json| {
                let row = json["prompts"][1].as_object_mut().unwrap();
                there = row.contains_key(key);
                match row.get_mut(key) {
                    Some(Value::Array(ids)) => ids[0] = Value::from(ids[0].as_u64().unwrap() + 1),
                    Some(text) => *text = Value::from(format!("{} ", text.as_str().unwrap())),
                    None => {}
                }
            });
            let report = run(root.path());
            let fails: Vec<String> = there.then(|| format!("prompts/{output}")).into_iter().collect();
            assert_eq!(failed(&report), fails, "{case} {key}");
            if let Some(call) = report.cases[0].calls.iter().find(|call| !call.ok) {
                assert!(call.detail.as_ref().is_some_and(|said| said.contains("expected")), "{call:?}");
            }
        }
    }
}

#[test]
fn another_task_and_a_tensor_that_nothing_reads_fail() {
    let root = copy("pipelines/t2v_pair");
    edit_json(&root.path().join("t2v_pair/case.json"), |json| json["task"] = Value::from("I2V"));
    let report = run(root.path());
    assert_eq!(failed(&report), ["run/task"]);
    let call = report.cases[0].calls.iter().find(|call| !call.ok).unwrap();
    assert_eq!(call.detail.as_deref(), Some("got \"T2V\", expected \"I2V\""));

    for case in ["transformers/wan21_t2v", "text_encoders/t5_flux", "vaes/wan21_vae_tiling"] {
        let root = copy(&format!("golden/{case}"));
        let folder = root.path().join(case.rsplit('/').next().unwrap());
        let file = ["model.safetensors", "diffusion_pytorch_model.safetensors"].map(|name| folder.join(name));
        let file = file.iter().find(|file| file.exists()).unwrap();
        let mut tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        tensors.insert("extra".to_owned(), Tensor::new(1f32, &Device::Cpu).unwrap());
        candle_core::safetensors::save(&tensors, file).unwrap();
        assert_eq!(failed(&run(root.path())), ["weights/tensors left unread"], "{case}");
    }
}

#[test]
fn what_cannot_run_here_is_skipped_by_name_and_allowed_only_on_request() {
    let root = copy("golden/transformers/wan21_t2v");
    let config = root.path().join("wan21_t2v/config.json");
    edit_json(&config, |json| json["_class_name"] = Value::from("PixArtTransformer2DModel"));
    let paths = [root.path().to_owned()];
    let strict = verify::run(&paths, false, Ops::Kernels).unwrap();
    assert_eq!(strict.cases[0].skipped.as_deref(), Some("this build has no PixArtTransformer2DModel"));
    assert!(!strict.ok && !strict.cases[0].ok);
    assert!(verify::run(&paths, true, Ops::Kernels).unwrap().ok);
}

#[test]
fn nothing_of_the_video_autoencoders_is_left_out() {
    let report = run(&fixtures("golden/vaes"));
    let wan = |case: &&CaseReport| {
        ["vaes/wan21_vae_tiling", "vaes/wan22_vae"].iter().any(|n| case.case.starts_with(n))
    };
    let cases: Vec<_> = report.cases.iter().filter(wan).collect();
    assert_eq!(cases.len(), 2, "{report}");
    assert!(cases.iter().all(|case| case.ok && case.not_compared.is_empty()), "{report}");
}

#[test]
fn damaged_cases_are_errors_that_name_what_is_wrong() {
    let error = |root: &TempDir| {
        format!("{:#}", verify::run(&[root.path().to_owned()], false, Ops::Kernels).unwrap_err())
    };
    let case = |root: &TempDir| root.path().join("wan21_t2v");

    let root = copy("golden/transformers/wan21_t2v");
    fs::write(case(&root).join("case.json"), "{\"group\": ").unwrap();
    assert!(error(&root).contains("case.json"), "{}", error(&root));
    fs::write(case(&root).join("case.json"), r#"{"group": "transformers"}"#).unwrap();
    assert!(error(&root).contains("missing field `case`"), "{}", error(&root));

    let root = copy("golden/transformers/wan21_t2v");
    edit_tensors(&case(&root), |tensors| drop(tensors.remove("b1_mid.sample").unwrap()));
    assert!(error(&root).contains("\"b1_mid.sample\""), "{}", error(&root));
    fs::write(case(&root).join("golden.safetensors"), [1, 2, 3]).unwrap();
    assert!(error(&root).contains("golden.safetensors"), "{}", error(&root));

    let root = copy("golden/transformers/wan21_t2v");
    edit_json(&case(&root).join("case.json"), |json| json["calls"] = Value::Array(Vec::new()));
    assert!(error(&root).contains("nothing to compare"), "{}", error(&root));
    fs::remove_file(case(&root).join("diffusion_pytorch_model.safetensors")).unwrap();
    assert!(error(&root).contains("does not exist"), "{}", error(&root));

    let root = copy("golden/cache_e2e/wan_t2v");
    let json = root.path().join("wan_t2v/case.json");
    edit_json(&json, |json| json["runs"][1]["latents_step_indices"][0] = Value::from(99));
    assert!(error(&root).contains("`latents_step_indices` has 99"), "{}", error(&root));
    edit_json(&json, |json| json["sampling"]["num_inference_steps"] = Value::from(0));
    assert!(error(&root).contains("steps"), "{}", error(&root));
}
