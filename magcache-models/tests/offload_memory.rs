//! A run of two experts takes the memory of one if the idle one waits on disk.
#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use magcache_core::HookRegistry;
use magcache_models::{
    checkpoint::Folder,
    pipeline::{Generation, LoadOptions, Offload, Pipeline},
    wan::WanPipeline,
};
use serde_json::{Value, json};

const WIDTH: usize = 1024;
const FFN: usize = 4096;
const LAYERS: usize = 12;

/// Resident memory of this process in bytes: `VmRSS` is the current one, `VmHWM` the peak.
fn resident(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(key)).expect("has the key");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}

/// Every tensor of a text-to-video transformer with its shape.
fn tensors(config: &Value) -> Vec<(String, Vec<usize>)> {
    let size = |key: &str| config[key].as_u64().expect("a number") as usize;
    let (d, latent) = (WIDTH, size("in_channels"));
    let mut all = Vec::new();
    let mut linear = |name: &str, shape: [usize; 2]| {
        all.push((format!("{name}.weight"), shape.to_vec()));
        all.push((format!("{name}.bias"), vec![shape[0]]));
    };
    let embedder = "condition_embedder";
    linear(&format!("{embedder}.time_embedder.linear_1"), [d, size("freq_dim")]);
    linear(&format!("{embedder}.time_embedder.linear_2"), [d, d]);
    linear(&format!("{embedder}.time_proj"), [6 * d, d]);
    linear(&format!("{embedder}.text_embedder.linear_1"), [d, size("text_dim")]);
    linear(&format!("{embedder}.text_embedder.linear_2"), [d, d]);
    linear("proj_out", [4 * latent, d]);
    for block in (0..LAYERS).map(|i| format!("blocks.{i}")) {
        for attention in ["attn1", "attn2"] {
            for part in ["to_q", "to_k", "to_v", "to_out.0"] {
                linear(&format!("{block}.{attention}.{part}"), [d, d]);
            }
        }
        linear(&format!("{block}.ffn.net.0.proj"), [FFN, d]);
        linear(&format!("{block}.ffn.net.2"), [d, FFN]);
    }
    all.push(("patch_embedding.weight".into(), vec![d, latent, 1, 2, 2]));
    all.push(("patch_embedding.bias".into(), vec![d]));
    all.push(("scale_shift_table".into(), vec![1, 2, d]));
    for block in (0..LAYERS).map(|i| format!("blocks.{i}")) {
        all.push((format!("{block}.scale_shift_table"), vec![1, 6, d]));
        for norm in ["attn1.norm_q", "attn1.norm_k", "attn2.norm_q", "attn2.norm_k", "norm2"] {
            all.push((format!("{block}.{norm}.weight"), vec![d]));
        }
        all.push((format!("{block}.norm2.bias"), vec![d]));
    }
    all
}

/// A bf16 file of zeros; a hole in the file system takes no disk space.
fn write_zeros(path: &Path, tensors: &[(String, Vec<usize>)]) -> u64 {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [begin, end] }));
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).expect("can be made");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("can be written");
    file.write_all(header.as_bytes()).expect("can be written");
    file.set_len(8 + header.len() as u64 + end as u64).expect("can grow");
    end as u64
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("can be made");
    for entry in fs::read_dir(from).expect("is a folder").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("can be copied");
        }
    }
}

/// The embedded pair with wide experts; returns the bytes of one.
fn wide_pair(root: &Path) -> u64 {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tiny");
    for part in ["text_encoder", "tokenizer", "vae"] {
        copy(&tiny.join("wan2.1-t2v-tiny").join(part), &root.join(part));
    }
    let pair = tiny.join("wan2.2-t2v-tiny");
    copy(&pair, root);
    copy(&pair.join("scheduler"), &root.join("scheduler"));
    let text = fs::read_to_string(pair.join("transformer/config.json")).expect("is there");
    let mut config: Value = serde_json::from_str(&text).expect("is JSON");
    for (key, value) in
        [("num_attention_heads", 8), ("attention_head_dim", 128), ("ffn_dim", FFN), ("num_layers", LAYERS)]
    {
        config[key] = value.into();
    }
    let tensors = tensors(&config);
    let bytes = ["transformer", "transformer_2"].map(|part| {
        let folder = root.join(part);
        fs::create_dir_all(&folder).expect("can be made");
        fs::write(folder.join("config.json"), config.to_string()).expect("can be written");
        write_zeros(&folder.join("diffusion_pytorch_model.safetensors"), &tensors)
    });
    assert_eq!(bytes[0], bytes[1]);
    bytes[0]
}

/// A run of four steps, two per expert.
fn run(root: &Path, offload: Offload) {
    let options = LoadOptions { offload, ..LoadOptions::default() };
    let pipeline = WanPipeline::open(Folder::open(root).expect("exists"), options).expect("opens");
    let mut request = pipeline.defaults().request.clone();
    (request.size, request.frames, request.steps) = ([32, 32], 1, 4);
    let trajectory = pipeline.trajectory(&request).expect("has steps");
    assert_eq!(trajectory.phases.len(), 2);
    let denoiser = pipeline.denoiser(&request, &|_| {}, &mut Vec::new()).expect("loads");
    let (sampler, noise) = (pipeline.sampler(&request).unwrap(), pipeline.noise(&request).unwrap());
    let registry = Arc::<HookRegistry>::default();
    let mut generation = Generation::new(denoiser, trajectory, sampler, &noise, &registry).unwrap();
    generation.run(&|| false, &mut |_| {}).expect("runs");
}

#[test]
fn peak_of_a_run_with_the_idle_expert_on_disk_is_one_expert() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let expert = wide_pair(root.path());
    let before = resident("VmRSS");
    run(root.path(), Offload::Disk);
    let peak = resident("VmHWM") - before;
    assert!(peak > expert, "an expert takes {expert} bytes, saw {peak}");
    assert!(peak as f64 <= 1.15 * expert as f64, "{peak} bytes with experts of {expert}");
    run(root.path(), Offload::None);
    let both = resident("VmHWM") - before;
    assert!(both as f64 > 1.9 * expert as f64, "{both} bytes with both experts of {expert}");
    println!("an expert {expert} bytes, peak {peak} with one on disk, {both} with both in memory");
}
