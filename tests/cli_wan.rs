//! Two experts and input images, as a user meets them.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::fs;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use program::{answer, copy, magcache, refused, tiny};

const T2V: [u64; 18] = [5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24, 28, 29, 31, 33];
const I2V: [u64; 17] = [3, 4, 6, 7, 9, 10, 12, 13, 20, 21, 23, 24, 26, 27, 29, 31, 33];

/// Profile; flow shift, boundary and threshold of a published schedule; skipped steps; steps of the first
/// expert.
type Published = (&'static str, [&'static str; 3], &'static [u64], u64);

const PUBLISHED: [Published; 2] = [
    ("wan2.2-t2v-a14b", ["12", "0.875", "threshold=0.04"], &T2V, 26),
    ("wan2.2-i2v-a14b", ["5", "0.9", "threshold=0.06"], &I2V, 15),
];

#[test]
fn published_schedules_are_printed_and_obeyed_by_the_embedded_pair() {
    let dir = tempfile::tempdir().unwrap();
    for (profile, [shift, boundary, threshold], skipped, high) in PUBLISHED {
        let common = [
            &["--profile", profile, "--steps", "40", "--flow-shift", shift, "--boundary", boundary][..],
            &["--cache", "magcache", "--set", threshold, "--set", "max_skips=2", "--set", "warmup=0.2"],
        ]
        .concat();
        let planned = answer(&[&["schedule"][..], &common].concat(), dir.path());
        let run = ["run", "--model", "wan2.2-t2v-tiny", "--frames", "1", "--size", "32x32", "--out", "a.png"];
        // The curve was measured on another model.
        let done = answer(&[&run[..], &common, &["--force", "--overwrite"]].concat(), dir.path());
        for found in [&planned, &done] {
            assert_eq!(found["skipped"], json!({ "cond": skipped, "uncond": skipped }), "{profile}");
        }
        assert_eq!(planned["experts"][0]["end"], high);
        assert_eq!(planned["ceiling"], done["ceiling"]);
        let total = |expert: &str, key: &str| -> u64 {
            let parts = done["parts"].as_array().unwrap().iter();
            parts.filter(|p| p["expert"] == expert).map(|p| p[key].as_u64().unwrap()).sum()
        };
        let totals: u64 =
            done["experts"].as_array().unwrap().iter().map(|e| e["passes"].as_u64().unwrap()).sum();
        assert_eq!((totals, &done["experts"][1]["name"]), (80, &json!("low-noise")));
        let in_high = skipped.iter().filter(|step| **step < high).count() as u64;
        assert_eq!([total("high-noise", "steps"), total("high-noise", "skipped")], [2 * high, 2 * in_high]);
        let in_low = skipped.len() as u64 - in_high;
        assert_eq!([total("low-noise", "steps"), total("low-noise", "skipped")], [80 - 2 * high, 2 * in_low]);
    }
}

const PAIR: [&str; 9] =
    ["run", "--model", "wan2.2-t2v-tiny", "--steps", "8", "--frames", "5", "--size", "32x32"];

fn pair<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&PAIR[..], more].concat()
}

#[test]
fn an_expert_can_wait_on_disk_be_unguided_or_uncached() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let cache = ["--cache", "magcache", "--set", "threshold=0.5", "--set", "warmup=1"];
    let both = answer(&pair(&[&cache[..], &["--out", "a.gif"]].concat()), d);
    answer(&pair(&[&cache[..], &["--out", "b.gif", "--offload", "disk"]].concat()), d);
    assert_eq!(fs::read(d.join("a.gif")).unwrap(), fs::read(d.join("b.gif")).unwrap());

    let steps = |found: &Value| -> Vec<u64> {
        found["parts"].as_array().unwrap().iter().map(|p| p["steps"].as_u64().unwrap()).collect()
    };
    let high = steps(&both)[0];
    assert_eq!(steps(&both), [high, high, 8 - high, 8 - high]);
    let unguided = answer(&pair(&[&cache[..], &["--guidance-2", "1", "--out", "c.gif"]].concat()), d);
    assert_eq!(steps(&unguided), [high, high, 8 - high]);
    let low =
        answer(&pair(&[&cache[..], &["--set", "experts=[\"low-noise\"]", "--out", "d.gif"]].concat()), d);
    let skipped = low["skipped"]["cond"].as_array().unwrap();
    assert!(!skipped.is_empty() && skipped.iter().all(|step| step.as_u64().unwrap() > high), "{skipped:?}");
    assert_eq!(low["parts"][0]["computed_because"], json!({ "no-cache": high }));
}

#[test]
fn a_moved_boundary_and_a_few_step_run_are_told_before_they_start() {
    let dir = tempfile::tempdir().unwrap();
    let cache = ["--cache", "magcache", "--profile", "wan2.2-t2v-a14b"];
    let distilled =
        ["--steps", "4", "--flow-shift", "5", "--guidance", "1", "--guidance-2", "1", "--dry-run", "--force"];
    let out =
        magcache(&[&["run", "--model", "wan2.2-t2v-tiny"][..], &cache, &distilled].concat(), dir.path());
    let told = String::from_utf8_lossy(&out.stderr);
    for part in [
        "4 steps: on a few-step run, caching whole steps is known to hurt",
        "measured at flow_shift 12, the run has 5",
        "of 4 steps the first expert runs 3 on the curve's schedule, 2 on this one",
        "profile wan2.2-t2v-a14b is not for this run of magcache: it is of wan2.2-t2v-a14b",
        "its first expert would run 3 of 4 steps, the run's 2",
        "4 steps: 1 of 4 passes will be skipped, cond #.|##",
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert!(out.status.success());
}

#[test]
fn a_pair_that_lacks_an_expert_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    copy(&tiny("wan2.2-t2v-tiny"), &d.join("pair"));
    for part in ["text_encoder", "tokenizer", "vae"] {
        copy(&tiny("wan2.1-t2v-tiny").join(part), &d.join("pair").join(part));
    }
    let run =
        ["run", "--model", "pair", "--steps", "2", "--frames", "1", "--size", "32x32", "--out", "a.png"];
    answer(&run, d);
    fs::remove_file(d.join("a.png")).unwrap();
    fs::remove_file(d.join("a.png.toml")).unwrap();
    fs::remove_dir_all(d.join("pair/transformer_2")).unwrap();
    refused(&run, d, &["transformer_2"]);
}

#[test]
fn pictures_that_cannot_be_used_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let run = ["run", "--model", "wan2.2-i2v-tiny", "--steps", "2", "--image"];
    let with = |file: &'static str| [&run[..], &[file]].concat();
    fs::write(d.join("text.png"), "not a picture").unwrap();
    refused(&with("text.png"), d, &["text.png", "not a picture", "hint: "]);
    fs::write(d.join("empty.jpg"), "").unwrap();
    refused(&with("empty.jpg"), d, &["empty.jpg", "empty"]);
    refused(&with("absent.png"), d, &["absent.png"]);
    let wide = image::RgbImage::new(20_000, 2);
    wide.save(d.join("wide.png")).unwrap();
    refused(&with("wide.png"), d, &["wide.png", "20000", "16384"]);
    wide.save(d.join("cut.png")).unwrap();
    let bytes = fs::read(d.join("cut.png")).unwrap();
    fs::write(d.join("cut.png"), &bytes[..40]).unwrap();
    refused(&with("cut.png"), d, &["cut.png"]);
    fs::copy(tiny("wan2.2-i2v-tiny").join("example.png"), d.join("good.png")).unwrap();
    refused(
        &["run", "--image", "good.png"],
        d,
        &["image is given, but wan2.1-t2v-tiny does not take it", "hint: remove the image"],
    );
    refused(&["run", "--guidance-2", "2"], d, &["guidance_2 is 2", "two experts"]);
    refused(&["run", "--boundary", "0.5"], d, &["boundary is 0.5", "two experts"]);
}

#[test]
fn ordinary_pictures_of_every_kind_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    image::GrayImage::from_pixel(50, 20, image::Luma([90])).save(d.join("gray.png")).unwrap();
    image::RgbaImage::from_pixel(20, 50, image::Rgba([9, 200, 9, 100])).save(d.join("alpha.png")).unwrap();
    let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(30, 30, image::Rgb([40_000u16, 9, 9]));
    deep.save(d.join("deep.png")).unwrap();
    // The video has the aspect ratio of the image at the model's area.
    for (file, size) in [("gray.png", [96, 40]), ("alpha.png", [40, 96]), ("deep.png", [64, 64])] {
        let run = ["run", "--model", "wan2.2-i2v-tiny", "--steps", "2", "--frames", "1", "--out", "a.png"];
        let done = answer(&[&run[..], &["--image", file, "--overwrite"]].concat(), d);
        assert_eq!(done["config"]["sampling"]["size"], json!(size), "{file}");
    }
    let example =
        answer(&["run", "--model", "wan2.2-i2v-tiny", "--steps", "2", "--frames", "5", "--out", "b.gif"], d);
    assert_eq!(example["outputs"][0], "b.gif");
}

#[test]
fn tensors_that_nothing_reads_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    copy(&tiny("wan2.1-t2v-tiny"), &d.join("model"));
    let run = |out: &str| {
        let args = ["run", "--model", "model", "--cache", "none", "--steps", "2", "--frames", "1"];
        let args = [&args[..], &["--size", "32x32", "--json", "--out", out]].concat();
        let output = magcache(&args, d);
        let said = String::from_utf8(output.stderr).unwrap();
        (serde_json::from_slice::<Value>(&output.stdout).unwrap(), said)
    };
    let (document, said) = run("a.gif");
    assert!(document["notes"].is_null() && !said.contains("nothing here reads"), "{said}");

    for (part, extra) in [("transformer", "blocks.0.adapter.weight"), ("vae", "decoder.head.bias")] {
        let file = d.join("model").join(part).join("diffusion_pytorch_model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        tensors.insert(extra.to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
        candle_core::safetensors::save(&tensors, &file).unwrap();
    }
    let (document, said) = run("b.gif");
    let notes: Vec<&str> =
        document["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    for (note, name) in notes.iter().zip(["blocks.0.adapter.weight", "decoder.head.bias"]) {
        assert!(note.ends_with(&format!("1 tensor that nothing here reads is left out: {name}")), "{note}");
        assert!(said.contains(&format!("note: {note}")), "{said}");
    }
    assert_eq!(fs::read(d.join("a.gif")).unwrap(), fs::read(d.join("b.gif")).unwrap());
}
