//! Decoding takes the memory that `VideoVaeConfig::decode_memory` predicts, whatever the length of the video.
#![cfg(target_os = "linux")]

use std::process::Command;

use candle_core::{Device, Tensor};
use magcache_models::{
    autoencoder::{Tiling, VideoVae},
    checkpoint::Folder,
};

/// Resident memory of this process in bytes: `VmRSS` is the current one, `VmHWM` the peak.
fn resident(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with(key)).expect("has the key");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}

/// The increase of peak memory while `work` runs.
fn peak_of(work: impl FnOnce()) -> u64 {
    let before = resident("VmRSS");
    // Resets the peak to the current resident memory.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux allows it");
    work();
    resident("VmHWM").saturating_sub(before)
}

/// Rows and columns of pixels.
const SIZE: usize = 256;

/// Threads of the child process, so that every machine measures the same.
const THREADS: usize = 2;

/// The setting that makes glibc return every tensor's memory as soon as it is dropped: larger allocations are
/// mapped separately.
const MAPPED: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "65536");

/// The only test in this file, because it watches the memory of its process, a child with [`MAPPED`] set.
#[test]
fn decoding_stays_within_the_bound() {
    if std::env::var_os(MAPPED.0).is_some() {
        return measure();
    }
    let child = Command::new(std::env::current_exe().expect("is running"))
        .args(["--exact", "decoding_stays_within_the_bound", "--nocapture"])
        .env(MAPPED.0, MAPPED.1)
        .env("RAYON_NUM_THREADS", THREADS.to_string())
        .output()
        .expect("can be run again");
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    println!("{text}");
    assert!(child.status.success(), "{text}");
}

fn measure() {
    for name in ["wan21_vae", "wan22_vae"] {
        let case = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden/vaes/");
        let folder = Folder::open(format!("{case}{name}")).expect("fixture");
        let vae = VideoVae::open(&folder, &Device::Cpu).expect("loads");
        let config = vae.config();
        let latents = |frames: usize| {
            let side = SIZE / config.spatial_scale();
            Tensor::randn(0f32, 1.0, (1, config.z_dim, frames, side, side), &Device::Cpu).expect("fits")
        };

        let tiling = Some(Tiling::square(128, 96));
        let frames = config.frames(3);
        let bound = config.decode_memory(SIZE, SIZE, frames, tiling).expect("is valid").total(THREADS);
        let z = latents(3);
        let tiled = peak_of(|| drop(vae.decode(&z, tiling).expect("decodes")));
        println!("{name} in tiles: {tiled} of {bound}");
        within(tiled, bound);

        let whole = config.decode_memory(SIZE, SIZE, frames, None).expect("is valid");
        let bound = whole.total(THREADS);
        let mut stream = vae.decode_stream();
        let mut push = |frames| {
            peak_of(|| {
                for _ in 0..frames {
                    drop(stream.push(&latents(1)).expect("decodes"));
                }
            })
        };
        let start = push(3);
        let later = push(3);
        println!("{name}: {start} of {bound}, {later} later");
        within(start, bound);
        // What the stream remembers is already resident: the rest must be as before.
        assert!(later + whole.feature_cache <= bound * 11 / 10, "{name}: {later} more in later frames");
    }
}

fn within(peak: u64, bound: u64) {
    assert!(peak <= bound, "{peak} bytes, bound {bound}");
    assert!(peak >= bound / 2, "{peak} bytes, the bound {bound} says little");
}
