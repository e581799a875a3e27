//! Parts of models: adapters of speech to video and of text encoders, files and tokenizers by names of the
//! hub.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor, quantized::gguf_file};

use crate::program::{Shell, copy, tiny};

type Tensors = HashMap<String, Tensor>;

fn values(shape: [usize; 2], step: f32) -> Tensor {
    let values = (0..shape[0] * shape[1]).map(|i| 0.1 * (step * i as f32).sin());
    Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(shape.to_vec()).unwrap()
}

fn load(path: &Path) -> Tensors {
    if path.extension().is_some_and(|extension| extension == "gguf") {
        return decoded(path);
    }
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// The tensors of a GGUF file as candle reads them, kernels in the shape that is stated beside them.
fn decoded(path: &Path) -> Tensors {
    let mut file = fs::File::open(path).unwrap();
    let contents = gguf_file::Content::read(&mut file).unwrap();
    let mut read = |name: &String| {
        let values = contents.tensor(&mut file, name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        let Some(stated) = contents.metadata.get(&format!("comfy.gguf.orig_shape.{name}")) else {
            return Ok(values);
        };
        let axes: candle_core::Result<Vec<_>> =
            stated.to_vec()?.iter().map(gguf_file::Value::to_i32).collect();
        values.reshape(axes?.into_iter().map(|n| n as usize).collect::<Vec<_>>())
    };
    contents.tensor_infos.keys().map(|name| (name.clone(), read(name).unwrap())).collect()
}

fn save(tensors: &Tensors, path: &Path) {
    candle_core::safetensors::save(tensors, path).unwrap();
}

/// Adds pairs for these modules to an adapter, and their product at strength 0.5 to the weights.
fn fuse(modules: &[(&str, &str)], adapter: &mut Tensors, weights: &mut Tensors) {
    for (name, module) in modules {
        let weight = format!("{module}.weight");
        let whole = weights[&weight].to_dtype(DType::F32).unwrap();
        let [outputs, inputs] = whole.dims() else { panic!("{weight}") };
        let (down, up) = (values([3, *inputs], 0.7), values([*outputs, 3], 1.3));
        let change = (&up * 0.5).unwrap().matmul(&down).unwrap();
        weights.insert(weight, (whole + change).unwrap());
        adapter.insert(format!("{name}.lora_A.weight"), down);
        adapter.insert(format!("{name}.lora_B.weight"), up);
    }
}

/// A model in two folders, the second of which has the adapter `a.safetensors` in its weights.
fn fused(sh: &Shell, model: &str, file: &str, modules: &[(&str, &str)]) {
    for name in ["plain", "fused"] {
        copy(&tiny(model), &sh.path(name));
    }
    let (place, mut adapter) = (sh.path("fused").join(file), Tensors::new());
    let mut weights = load(&place);
    fuse(modules, &mut adapter, &mut weights);
    fs::remove_file(&place).unwrap();
    save(&weights, &place.with_extension("safetensors"));
    save(&adapter, &sh.path("a.safetensors"));
}

/// The results of both, and of the first with the adapter: small models are kept in f32, where sums are the
/// same.
fn compared(sh: &Shell, run: &str) {
    sh.answer(format!("{run} --model plain --out plain.gif"));
    sh.answer(format!("{run} --model plain --lora a.safetensors:0 --out none.gif"));
    sh.answer(format!("{run} --model plain --lora a.safetensors:0.5 --out adapted.gif"));
    sh.answer(format!("{run} --model fused --out fused.gif"));
    assert!(sh.same("plain.gif", "none.gif"), "strength 0 is no adapter");
    assert!(!sh.same("plain.gif", "adapted.gif"), "it changes the result");
    assert!(sh.same("adapted.gif", "fused.gif"), "and gives what its sum with the weights gives");
}

#[test]
fn an_adapter_of_speech_to_video_gives_what_its_sum_with_the_weights_gives() {
    let sh = Shell::new();
    let modules = [
        ("diffusion_model.blocks.0.self_attn.q", "blocks.0.self_attn.q"),
        ("diffusion_model.audio_injector.injector.0.q", "audio_injector.injector.0.q"),
        ("transformer.blocks.1.ffn.net.2", "blocks.1.ffn.2"),
    ];
    fused(&sh, "wan2.2-s2v-tiny", "diffusion_pytorch_model.gguf", &modules);
    compared(&sh, "run --steps 2 --clips 1 --seed 1");
}

#[test]
fn an_adapter_of_a_text_encoder_is_applied_to_it() {
    let sh = Shell::new();
    let module = "text_encoder.encoder.block.0.layer.0.SelfAttention.q";
    let modules = [(module, "encoder.block.0.layer.0.SelfAttention.q")];
    fused(&sh, "wan2.1-t2v-tiny", "text_encoder/model.safetensors", &modules);
    compared(&sh, "run --steps 3 --frames 5 --seed 1");
    // An encoder that the model does not have is told.
    let (mut other, shape) = (Tensors::new(), load(&sh.path("a.safetensors")));
    other.insert("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight".into(), values([1, 4], 1.0));
    other.extend(shape);
    save(&other, &sh.path("b.safetensors"));
    let [_, told] = sh.said("run --model plain --steps 1 --frames 1 --lora b.safetensors --out c.png");
    assert!(told.contains("1 tensors for text encoders that this model does not have"), "{told}");
}

#[test]
fn files_and_tokenizers_are_found_by_their_names_on_the_hub() {
    let sh = Shell::new();
    let snapshot = |repo: &str| {
        let own = sh.path("home/hub").join(format!("models--owner--{repo}"));
        fs::create_dir_all(own.join("refs")).unwrap();
        fs::write(own.join("refs/main"), "0123456789abcdef").unwrap();
        own.join("snapshots/0123456789abcdef")
    };
    let parts = snapshot("parts");
    copy(&tiny("wan2.1-t2v-tiny/transformer"), &parts);
    fs::rename(parts.join("diffusion_pytorch_model.gguf"), parts.join("t-Q8_0.gguf")).unwrap();
    let mut adapter = Tensors::new();
    adapter.insert("transformer.blocks.0.attn1.to_q.lora_A.weight".into(), values([2, 128], 0.7));
    adapter.insert("transformer.blocks.0.attn1.to_q.lora_B.weight".into(), values([128, 2], 1.3));
    save(&adapter, &parts.join("style.safetensors"));
    copy(&tiny("wan2.1-t2v-tiny/tokenizer"), &snapshot("words"));
    let run = |line: &str| {
        let mut command = sh.command(line);
        command.env("HF_HOME", sh.path("home")).env("HF_HUB_OFFLINE", "1");
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let model = "run --model wan2.1-t2v-tiny --steps 2 --frames 1 --seed 1";
    let lora = parts.join("style.safetensors");
    for (line, name) in [
        (format!("{model} --lora {}:0.5", lora.display()), "path.png"),
        (
            format!("{model} --lora owner/parts:style.safetensors:0.5 --transformer owner/parts:Q8_0"),
            "hub.png",
        ),
    ] {
        let (code, told) = run(&format!("{line} --out {name}"));
        assert_eq!(code, Some(0), "{told}");
    }
    assert!(sh.same("path.png", "hub.png"));
    // The stored configuration has the names, and means the same in another folder.
    let stored = sh.text("hub.png.toml");
    assert!(stored.contains("file = \"owner/parts:style.safetensors\""), "{stored}");
    assert!(stored.contains("transformer = \"owner/parts:Q8_0\""), "{stored}");
    fs::create_dir(sh.path("other")).unwrap();
    fs::copy(sh.path("hub.png.toml"), sh.path("other/again.toml")).unwrap();
    let (code, told) = run("run --config other/again.toml --out again.png");
    assert!(code == Some(0) && sh.same("again.png", "hub.png"), "{told}");
    // What is not there, or not one file.
    let (code, told) = run(&format!("{model} --vae owner/parts:wan_2.1_vae.safetensors"));
    assert!(code == Some(2) && told.contains("the network is not to be used"), "{told}");
    let (code, told) = run(&format!("{model} --transformer nowhere/t.safetensors"));
    assert!(code == Some(2) && told.contains("does not exist"), "{told}");
    let (code, told) = run(&format!("{model} --tokenizer owner/words --out w.png"));
    assert!(code == Some(2) && told.contains("has no tokenizer that is known"), "{told}");
}

#[test]
fn a_flux_transformer_under_diffusers_names_is_one_file() {
    let sh = Shell::new();
    let run = "run --model tiny-flux --steps 2 --size 48x32 --seed 1";
    sh.answer(format!("{run} --out folder.png"));
    let folder = tiny("tiny-flux/transformer");
    let mut tensors = decoded(&folder.join("diffusion_pytorch_model.gguf"));
    save(&tensors, &sh.path("t.safetensors"));
    // No tensor says how positions divide a head: a file alone is taken for a published model.
    sh.answer(format!("{run} --transformer t.safetensors --out alone.png"));
    fs::copy(folder.join("config.json"), sh.path("config.json")).unwrap();
    sh.answer(format!("{run} --transformer t.safetensors --out file.png"));
    assert!(sh.same("folder.png", "file.png") && !sh.same("folder.png", "alone.png"));
    tensors.remove("single_transformer_blocks.1.proj_mlp.bias").unwrap();
    save(&tensors, &sh.path("less.safetensors"));
    let missing = ["of its", "is missing", "single_transformer_blocks.1.proj_mlp.bias"];
    sh.refused(format!("{run} --transformer less.safetensors --out none.png"), missing);
}

#[test]
fn what_every_phase_of_flux_needs_is_told_before_it_runs() {
    let plan = Shell::new().answer("run --model tiny-flux --dry-run");
    let phases = plan["memory"]["phases"].as_array().unwrap();
    let names: Vec<&str> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["text encoder", "transformer", "autoencoder"]);
    for phase in phases {
        assert!(phase["weights"].as_u64() > Some(0) && phase["activations"].as_u64() > Some(0), "{phase}");
    }
}

#[test]
fn a_tokenizer_that_is_nowhere_is_told_with_where_it_is_usually_found() {
    let sh = Shell::new();
    copy(&tiny("tiny-flux"), &sh.path("whole"));
    copy(&tiny("tiny-flux"), &sh.path("bare"));
    fs::remove_dir_all(sh.path("bare/tokenizer")).unwrap();
    let run = "run --steps 2 --size 48x32 --seed 1";
    sh.hinted(
        format!("{run} --model bare --out a.png"),
        ["CLIP tokenizer is missing", "--tokenizer openai/clip-vit-large-patch14"],
    );
    sh.refused(
        format!("{run} --model bare --tokenizer bare/vae --out a.png"),
        ["bare/vae", "has no tokenizer that is known"],
    );
}
