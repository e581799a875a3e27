//! Adapters, quantised files, damaged files, and models of the hub.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};

use crate::{
    floats::copy_in_floats,
    gguf::{self, Numbers, Stored},
    program::{Shell, tiny},
};

const MODEL: &str = "--model wan2.1-t2v-tiny --steps 3 --frames 1";

/// An adapter of the first block of the small model.
fn adapter(sh: &Shell, name: &str, seed: u64, module: &str) {
    let mut numbers = Numbers(seed);
    let mut factor = |shape: [usize; 2]| {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| 0.3 * numbers.float()).collect();
        Tensor::from_vec(values, shape.to_vec(), &Device::Cpu).unwrap()
    };
    let tensors = HashMap::from([
        (format!("transformer.{module}.lora_A.weight"), factor([4, 128])),
        (format!("transformer.{module}.lora_B.weight"), factor([128, 4])),
    ]);
    candle_core::safetensors::save(&tensors, sh.path(name)).unwrap();
}

const FLOATS: &str = "floats/transformer/diffusion_pytorch_model.safetensors";

/// The small transformer in FLOATS, and as GGUF, the large matrices of its blocks in `Q8_0`.
fn quantised(sh: &Shell) {
    copy_in_floats("wan2.1-t2v-tiny", &sh.path("floats"));
    let weights = candle_core::safetensors::load(sh.path(FLOATS), &Device::Cpu);
    let mut tensors: Vec<(String, Tensor)> = weights.unwrap().into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let stored: Vec<Stored> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let shape = tensor.dims().to_vec();
            let floats = tensor.to_dtype(DType::F32).and_then(|floats| floats.flatten_all());
            let values: Vec<f32> = floats.unwrap().to_vec1().unwrap();
            let matrix = name.starts_with("blocks.") && shape.len() == 2 && shape[1].is_multiple_of(32);
            let (code, bytes) = if matrix {
                (8, values.chunks(32).flat_map(q8_0).collect())
            } else {
                (gguf::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            };
            Stored { name, shape, code, bytes }
        })
        .collect();
    sh.write("t.gguf", gguf::file("wan", &stored));
    fs::copy(sh.path("floats/transformer/config.json"), sh.path("config.json")).unwrap();
}

/// A block of 32 values as a scale and bytes, of which half are used: coarser than the embedded weights.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let largest = values.iter().fold(0f32, |most, value| most.max(value.abs()));
    // Rounded down to the fraction of an f16; the scales of these weights are normal numbers there.
    let scale = f32::from_bits((largest / 63.0).max(1e-4).to_bits() & !0x1fff);
    let half = ((scale.to_bits() >> 13) - (112 << 10)) as u16;
    let of = |value: &f32| (value / scale).round().clamp(-63.0, 63.0) as i8;
    half.to_le_bytes().into_iter().chain(values.iter().map(|value| of(value).cast_unsigned())).collect()
}

#[test]
fn an_adapter_changes_what_it_should() {
    let sh = Shell::new();
    adapter(&sh, "a.safetensors", 1, "blocks.0.attn1.to_q");
    adapter(&sh, "b.safetensors", 2, "blocks.0.attn1.to_q");
    sh.answer(format!("run {MODEL} --out plain.png"));
    sh.answer(format!("run {MODEL} --lora a.safetensors:0 --out zero.png"));
    assert!(sh.same("plain.png", "zero.png"), "strength 0 is no adapter");
    sh.answer(format!("run {MODEL} --lora a.safetensors --lora b.safetensors:-0.5 --out one.png"));
    sh.answer(format!("run {MODEL} --lora b.safetensors:-0.5 --lora a.safetensors --out other.png"));
    assert!(!sh.same("plain.png", "one.png") && sh.same("one.png", "other.png"), "the order does not matter");
    // The stored configuration has them.
    assert!(
        sh.text("one.png.toml").contains("[[lora]]\nfile = \"a.safetensors\""),
        "{}",
        sh.text("one.png.toml")
    );
    sh.answer("run --config one.png.toml --out again.png");
    assert!(sh.same("one.png", "again.png"));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let sh = Shell::new();
    adapter(&sh, "far.safetensors", 1, "blocks.9.attn1.to_q");
    adapter(&sh, "flux.safetensors", 1, "single_transformer_blocks.0.attn.to_q");
    let far = ["nothing of it fits this Wan model", "transformer.blocks.9.attn1.to_q.lora_A.weight"];
    sh.refused(format!("run {MODEL} --lora far.safetensors"), far);
    sh.refused(format!("run {MODEL} --lora flux.safetensors"), ["an adapter for FLUX, this is a Wan model"]);
    sh.refused(format!("run {MODEL} --lora none.safetensors"), ["none.safetensors does not exist"]);
    sh.refused(format!("run {MODEL} --lora far.safetensors:nan"), ["the strength is NaN"]);
}

#[test]
fn an_adapter_inside_the_program_is_used_by_name() {
    let sh = Shell::new();
    let run = "run --model wan2.1-t2v-tiny --sampler euler --steps 4 --guidance 1 --frames 1";
    let file = tiny("wan2.1-t2v-tiny/lora/4-step.safetensors");
    sh.answer(format!("{run} --out plain.png"));
    sh.answer(format!("{run} --lora builtin:4-step --out named.png"));
    sh.answer(format!("{run} --lora {} --out path.png", file.display()));
    assert!(!sh.same("plain.png", "named.png") && sh.same("named.png", "path.png"));
    // The stored configuration has the name, and means the same in another folder; the model may go unnamed.
    fs::create_dir(sh.path("other")).unwrap();
    fs::copy(sh.path("named.png.toml"), sh.path("other/again.toml")).unwrap();
    assert!(sh.text("named.png.toml").contains("file = \"builtin:4-step\""), "{}", sh.text("named.png.toml"));
    sh.answer("run --config other/again.toml --out again.png");
    sh.answer(format!(
        "{} --lora builtin:4-step:0.5 --out half.png",
        run.replace("--model wan2.1-t2v-tiny ", "")
    ));
    assert!(sh.same("named.png", "again.png") && !sh.same("named.png", "half.png"));
    // A profile that was measured with one of the two is for both.
    let names = |line: &str| {
        sh.answer(format!("{line} --dry-run --cache magcache --force"))["profile_verdict"].clone()
    };
    assert_eq!(
        names(&format!("{run} --lora builtin:4-step"))["reasons"],
        names(&format!("{run} --lora {}", file.display()))["reasons"]
    );
    let unknown = ["there is no adapter builtin:4-steps", "which has builtin:4-step", "did you mean"];
    sh.hinted(format!("{run} --lora builtin:4-steps"), unknown);
    let other = ["builtin:4-step is an adapter of wan2.1-t2v-tiny, the model is wan2.2-t2v-tiny"];
    sh.refused("run --model wan2.2-t2v-tiny --lora builtin:4-step", other);
    let listed = sh.answer("list")["models"].clone();
    let of = |name: &str| {
        listed.as_array().unwrap().iter().find(|model| model["name"] == name).unwrap()["adapters"].clone()
    };
    assert_eq!(of("wan2.1-t2v-tiny"), serde_json::json!(["builtin:4-step"]));
    assert_eq!(of("tiny-flux"), serde_json::json!([]));
}

#[test]
fn a_profile_is_usable_for_other_formats_and_not_for_an_adapter() {
    let sh = Shell::new();
    quantised(&sh);
    adapter(&sh, "a.safetensors", 1, "blocks.0.attn1.to_q");
    let plain = "run --model wan2.1-t2v-tiny --cache magcache --dry-run";
    let verdict = |line: &str| {
        let found = sh.answer(line)["profile_verdict"].clone();
        (found["verdict"].as_str().unwrap().to_owned(), found["reasons"].to_string())
    };
    let (usable, reasons) = verdict(&format!("{plain} --transformer {FLOATS}"));
    assert_eq!(usable, "usable");
    assert!(reasons.contains("measured with weights in gguf Q8_0, the run has f32"), "{reasons}");
    let words = ["measured with no adapter, the run has a.safetensors at 1", "--force"];
    sh.hinted(format!("{plain} --lora a.safetensors"), words);
    let (forced, _) = verdict(&format!("{plain} --lora a.safetensors --force"));
    assert_eq!(forced, "refused");
}

#[test]
fn a_quantised_transformer_takes_the_place_of_the_folders() {
    let sh = Shell::new();
    quantised(&sh);
    // After more steps an edge may be elsewhere.
    let one = "--model wan2.1-t2v-tiny --steps 1 --frames 1";
    sh.answer(format!("run {one} --out plain.png"));
    sh.answer(format!("run {one} --transformer t.gguf --out coded.png"));
    sh.answer(format!("run {one} --transformer t.gguf --dtype keep --out kept.png"));
    assert!(!sh.same("plain.png", "coded.png"));
    let pixels = |name: &str| image::open(sh.path(name)).unwrap().to_rgb8().into_raw();
    let far = |a: &str, b: &str| {
        let pairs = pixels(a).into_iter().zip(pixels(b));
        pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap()
    };
    assert!(far("plain.png", "coded.png") < 30, "{}", far("plain.png", "coded.png"));
    assert!(far("coded.png", "kept.png") <= 1, "decoded once or for each product");
    let found = sh.answer("inspect t.gguf");
    assert!(found["part"].as_str().unwrap().contains("Wan transformer"), "{found}");
    let dtypes = &found["components"]["file"]["dtypes"];
    assert!(dtypes["Q8_0"].as_u64().unwrap() > 100_000 && dtypes["F32"].as_u64().unwrap() > 1000, "{found}");
    // Alone, it says what else is needed and where that is found.
    sh.hinted(
        "run --model t.gguf",
        ["the model's text encoder is missing", "umt5_xxl_fp8_e4m3fn_scaled.safetensors"],
    );
    let other = ["it is a Wan transformer", "not a autoencoder"];
    sh.refused(format!("run {MODEL} --vae t.gguf"), other);
}

#[test]
fn two_hundred_damaged_files_are_bad_input() {
    let sh = Shell::new();
    quantised(&sh);
    adapter(&sh, "a.safetensors", 1, "blocks.0.attn1.to_q");
    let model = sh.bytes(FLOATS);
    let files = [
        ("t.gguf", "--transformer", sh.bytes("t.gguf")),
        ("a.safetensors", "--lora", sh.bytes("a.safetensors")),
        ("m.safetensors", "--transformer", model),
    ];
    let mut numbers = Numbers(5);
    let mut refused = 0;
    for turn in 0..200 {
        let (name, flag, whole) = &files[turn % files.len()];
        let mut file = whole.clone();
        let near = (numbers.next() as usize) % 4096.min(file.len());
        match turn % 5 {
            0 => file.truncate(near),
            1 => file.truncate(file.len() - 1 - near % (file.len() / 2)),
            2 => file[near % 16] ^= 1 << (numbers.next() % 8),
            3 => file[8 + near % 64..16 + near % 64].copy_from_slice(&u64::MAX.to_le_bytes()),
            _ => file[near] = file[near].wrapping_add(1 + numbers.next() as u8 % 254),
        }
        let damaged = format!("damaged-{name}");
        sh.write(&damaged, file);
        let out = sh.run(format!("run {MODEL} {flag} {damaged} --dry-run"));
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!told.contains("panicked"), "{turn} {name}: {told}");
        let code = out.status.code();
        assert!([Some(0), Some(2)].contains(&code), "{turn} {name}: {code:?} {told}");
        refused += usize::from(code == Some(2));
    }
    // The rest changed a value, not the structure.
    assert!(refused > 150, "{refused}");
}

#[test]
fn a_run_that_does_not_fit_is_refused_before_it_begins() {
    let sh = Shell::new();
    let plan = sh.answer(format!("run {MODEL} --dry-run"));
    let phases = plan["memory"]["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["text encoder", "transformer", "autoencoder"]);
    assert!(phases[1]["weights"].as_u64().unwrap() > 1_000_000, "{plan}");
    let large = "run --model wan2.1-t2v-tiny --size 65536x65536";
    sh.hinted(large, ["needs", "of weights", "this machine has", "to spare"]);
}

#[test]
fn a_model_of_the_hub_that_is_not_here_is_one_clear_error() {
    let sh = Shell::new();
    let run = |line: &str| {
        let mut command = sh.command(line);
        command.env("HF_HOME", sh.path("home")).env("HF_HUB_OFFLINE", "1");
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, told) = run("run --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers");
    assert_eq!(code, Some(2), "{told}");
    assert!(
        told.contains("the network is not to be used") && told.contains("magcache pull Wan-AI/"),
        "{told}"
    );
    assert_eq!(run("rm Wan-AI/Wan2.1-T2V-1.3B-Diffusers --yes").0, Some(2));
    let (code, told) = run("list --downloaded");
    assert_eq!(code, Some(0), "{told}");
}
