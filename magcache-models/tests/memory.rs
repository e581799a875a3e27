//! Memory that loading, a run of two experts and decoding take, each measured in a process of its own.
#![cfg(target_os = "linux")]

mod support;

use std::{fs, path::Path, process::Command};

use candle_core::{DType, Tensor};
use magcache_models::{
    autoencoder::{Tiling, VideoVae},
    checkpoint::{Ops, WeightDtype, Weights},
    nn,
    pipeline::{LoadOptions, Offload, Pipeline as _},
    wan::WanPipeline,
};
use support::{DEVICE, KEEP, copy_folder, edit_json, fixtures, folder, read_json, run, tiny, write_hollow};

/// Threads of the child processes, so that every machine measures the same.
const THREADS: usize = 2;

/// The setting that makes glibc return every tensor's memory as soon as it is dropped: larger allocations are
/// mapped separately.
const MAPPED: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "65536");

/// Runs `measure` in a child process, which runs the test `name` again with [`MAPPED`] set.
fn alone(name: &str, measure: fn()) {
    if std::env::var_os(MAPPED.0).is_some() {
        return measure();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MAPPED.0, MAPPED.1)
        .env("RAYON_NUM_THREADS", THREADS.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    println!("{text}");
    assert!(child.status.success(), "{text}");
}

/// Resident memory of this process in bytes: `VmRSS` is the current one, `VmHWM` the peak.
fn resident(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// The increase of peak memory while `work` runs.
fn peak_of(work: impl FnOnce()) -> u64 {
    let before = resident("VmRSS");
    // Resets the peak to the current resident memory.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    work();
    resident("VmHWM").saturating_sub(before)
}

/// Not of the tensors plus their file.
#[test]
fn loading_takes_the_memory_of_the_tensors_alone() {
    alone("loading_takes_the_memory_of_the_tensors_alone", || {
        const SHAPE: [usize; 2] = [2048, 2048];
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("model.safetensors");
        let tensors: Vec<_> = (0..24).map(|i| (format!("t{i}"), SHAPE.to_vec())).collect();
        write_hollow(&path, &tensors);
        let size = fs::metadata(path).unwrap().len();
        let peak = peak_of(|| {
            let weights = Weights::open(&folder(root.path()), &DEVICE, KEEP).unwrap();
            let loaded = tensors.iter().map(|(name, shape)| weights.get(name, shape).unwrap());
            assert!(loaded.collect::<Vec<_>>().iter().all(|t| t.dtype() == DType::BF16));
        });
        assert!(peak > size, "the tensors themselves take {size} bytes, saw {peak}");
        assert!(peak as f64 <= 1.15 * size as f64, "{peak} bytes for a file of {size}");
    });
}

/// The tensors of the embedded pair's transformers with twice the blocks, each about ten times as wide.
fn wide(transformer: &Path) -> Vec<(String, Vec<usize>)> {
    let small = read_json(&transformer.join("config.json"));
    let size = |key: &str| small[key].as_u64().unwrap() as usize;
    let inner = size("num_attention_heads") * size("attention_head_dim");
    let widen = |n: usize| match n {
        n if n == inner => 1024,
        n if n == 6 * inner => 6 * 1024,
        n if n == size("ffn_dim") => 4096,
        n => n,
    };
    let weights = Weights::open(&folder(transformer), &DEVICE, WeightDtype::Keep).unwrap();
    let mut tensors = Vec::new();
    for name in weights.names() {
        let shape: Vec<usize> = weights.shape(name).unwrap().iter().copied().map(widen).collect();
        if let Some((block, rest)) = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            let block = block.parse::<usize>().unwrap() + size("num_layers");
            tensors.push((format!("blocks.{block}.{rest}"), shape.clone()));
        }
        tensors.push((name.to_owned(), shape));
    }
    tensors
}

/// The embedded pair with wide experts; returns the bytes of one.
fn wide_pair(root: &Path) -> u64 {
    copy_folder(&tiny("wan2.2-t2v-tiny"), root);
    for part in ["text_encoder", "tokenizer", "vae"] {
        copy_folder(&tiny("wan2.1-t2v-tiny").join(part), &root.join(part));
    }
    let bytes = ["transformer", "transformer_2"].map(|part| {
        let part = root.join(part);
        let tensors = wide(&part);
        fs::remove_file(part.join("diffusion_pytorch_model.gguf")).unwrap();
        edit_json(&part.join("config.json"), |config| {
            for (key, value) in [
                ("num_attention_heads", 8),
                ("attention_head_dim", 128),
                ("ffn_dim", 4096),
                ("num_layers", 12),
            ] {
                config[key] = value.into();
            }
        });
        write_hollow(&part.join("diffusion_pytorch_model.safetensors"), &tensors)
    });
    assert_eq!(bytes[0], bytes[1]);
    bytes[0]
}

#[test]
fn a_run_with_the_idle_expert_on_disk_takes_the_memory_of_one() {
    alone("a_run_with_the_idle_expert_on_disk_takes_the_memory_of_one", || {
        let root = tempfile::tempdir().unwrap();
        let expert = wide_pair(root.path());
        // A run of four steps, two per expert.
        let peak = |offload| {
            peak_of(|| {
                let options = LoadOptions { offload, ..LoadOptions::default() };
                let pipeline = WanPipeline::open(folder(root.path()), options).unwrap();
                let mut request = pipeline.defaults().request.clone();
                (request.size, request.frames, request.steps) = ([32, 32], 1, 4);
                assert_eq!(pipeline.trajectory(&request).unwrap().phases.len(), 2);
                run(&pipeline, &request);
            })
        };
        let (one, both, blocks) = (peak(Offload::Disk), peak(Offload::None), peak(Offload::Blocks));
        println!("an expert {expert} bytes, peak {one} with one on disk, {both} with both in memory");
        assert!(one > expert, "an expert takes {expert} bytes, saw {one}");
        assert!(one as f64 <= 1.15 * expert as f64, "{one} bytes with experts of {expert}");
        assert!(both as f64 > 1.9 * expert as f64, "{both} bytes with both experts of {expert}");
        // Two of twelve blocks of each of two experts, one as it is read, and what is no block.
        println!("peak {blocks} with blocks on disk");
        assert!(blocks as f64 <= 0.6 * expert as f64, "{blocks} bytes with experts of {expert}");
    });
}

/// Whatever the length of the video: `VideoVaeConfig::decode_memory` predicts it.
#[test]
fn decoding_stays_within_the_bound() {
    alone("decoding_stays_within_the_bound", || {
        // Rows and columns of pixels.
        const SIZE: usize = 256;
        for name in ["wan21_vae_tiling", "wan22_vae"] {
            let vae = VideoVae::open(&folder(fixtures("golden/vaes").join(name)), &DEVICE).unwrap();
            let config = vae.config();
            let latents = |frames: usize| {
                let side = SIZE / config.spatial_scale();
                Tensor::randn(0f32, 1.0, (1, config.z_dim, frames, side, side), &DEVICE).unwrap()
            };

            let tiling = Some(Tiling::square(128, 96));
            let frames = config.frames(3);
            let bound = config.decode_memory(SIZE, SIZE, frames, tiling).unwrap().total(THREADS);
            let z = latents(3);
            let tiled = peak_of(|| drop(vae.decode(&z, tiling).unwrap()));
            println!("{name} in tiles: {tiled} of {bound}");
            within(tiled, bound);

            let whole = config.decode_memory(SIZE, SIZE, frames, None).unwrap();
            let bound = whole.total(THREADS);
            let mut stream = vae.decode_stream();
            let mut push =
                |frames| peak_of(|| (0..frames).for_each(|_| drop(stream.push(&latents(1)).unwrap())));
            let start = push(3);
            let later = push(3);
            println!("{name}: {start} of {bound}, {later} later");
            within(start, bound);
            // What the stream remembers is already resident: the rest must be as before.
            assert!(later + whole.feature_cache <= bound * 11 / 10, "{name}: {later} more in later frames");
        }
    });
}

fn within(peak: u64, bound: u64) {
    assert!(peak <= bound, "{peak} bytes, bound {bound}");
    assert!(peak >= bound / 2, "{peak} bytes, the bound {bound} says little");
}

/// Not of the scores of every token for every other: at the lengths of pictures of 1024 by 1024 with a
/// caption (Z-Image) and of 1328 by 1328 (Qwen-Image). The bound is that of keys and values packed, the
/// result, and the tiles of two threads.
#[test]
fn attention_holds_no_matrix_of_scores() {
    alone("attention_holds_no_matrix_of_scores", || {
        const HEADS: usize = 4;
        for tokens in [4096 + 64, 6889 + 60] {
            let x = Tensor::ones((1, tokens, 8 * HEADS), DType::F32, &DEVICE).unwrap();
            let peak = peak_of(|| {
                let y = nn::attention(Ops::Kernels, &x, &x, &x, HEADS).unwrap();
                assert_eq!(y.dims(), x.dims());
            });
            let (scores, bound) = (HEADS * tokens * tokens * 4, 6 * 4 * x.elem_count() + (4 << 20));
            println!("{tokens} tokens: {peak} of {bound}, the scores are {scores}");
            assert!(bound < scores / 20 && peak < bound as u64, "{peak} bytes of {bound}; scores {scores}");
        }
    });
}
