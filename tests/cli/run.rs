//! `run`: what is computed once, several prompts and seeds, its progress, and what it takes.

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::{
    floats::copy_in_floats,
    program::{Shell, fixture, list, skipped},
};

/// An image run that takes almost no time.
const TINY: &str = "run --model tiny-flux --steps 3 --cache magcache";

#[test]
fn caches_of_whole_forwards_run_and_say_what_they_skip() {
    let sh = Shell::new();
    for (strategy, cond_too) in [("easycache", true), ("sencache", true), ("cfg-cache", false)] {
        let ran = sh.answer(format!("run --frames 5 --cache {strategy} --trace t.jsonl --overwrite"));
        let [cond, uncond] = ["cond", "uncond"].map(|branch| skipped(&ran, branch).len());
        assert!(uncond >= 5 && cond == if cond_too { uncond } else { 0 }, "{strategy}: {}", ran["skipped"]);
        let ceiling = 60.0 / (60 - cond - uncond) as f64;
        assert!((ran["ceiling"].as_f64().unwrap() - ceiling).abs() < 1e-9, "{strategy}: {}", ran["ceiling"]);
        let planned = sh.answer(format!("schedule --cache {strategy}"));
        let known = if cond_too { &Value::Null } else { &ran["skipped"] };
        assert_eq!(&planned["skipped"], known, "{strategy}");
    }
    let unguided = ["the run has cond alone", "--guidance above 1"];
    sh.refused("run --cache cfg-cache --guidance 1", unguided);
}

/// The text is the same at every step: its keys and values are computed once per block and prompt.
#[test]
fn keys_and_values_of_the_text_are_computed_once() {
    let sh = Shell::new();
    let uses = |more: &str| {
        let ran = sh.answer(format!("run --steps 4 --overwrite {more}"));
        ["computed", "reused"].map(|key| ran["text_keys_values"][key].as_u64())
    };
    // Six blocks, two prompts, four steps.
    assert_eq!(uses("--frames 5 --out x.gif"), [Some(12), Some(36)]);
    assert_eq!(uses("--frames 5 --out x.gif --guidance 1"), [Some(6), Some(18)]);
    // Skipped steps do not read them.
    assert_eq!(uses("--frames 5 --out x.gif --cache schedule --set 'skip=[1, 2]'"), [Some(12), Some(12)]);
    assert_eq!(uses("--model tiny-flux --out x.png"), [None, None]);
}

/// candle's operations reproduce every recorded case too, differing from our kernels only in the last bits.
#[test]
fn reference_ops_reproduce_every_case() {
    let sh = Shell::new();
    let verify = |more: &str| {
        let report = sh.answer(format!("verify {} {more}", fixture("golden").display()));
        assert_eq!(report["ok"], true, "{report}");
        report
    };
    let errors = |report: &Value, group: &str| -> Vec<f64> {
        let cases = list(&report["cases"]).iter();
        let own = cases.filter(|case| case["case"].as_str().unwrap().starts_with(group));
        own.flat_map(|case| list(&case["calls"])).map(|call| call["max_abs"].as_f64().unwrap()).collect()
    };
    let (kernels, plain) = (verify(""), verify("--reference-ops"));
    for group in ["transformers/", "text_encoders/", "vaes/", "cache_e2e/"] {
        let (kernels, plain) = (errors(&kernels, group), errors(&plain, group));
        assert_eq!(kernels.len(), plain.len());
        assert!(kernels != plain, "{group} does not depend on --reference-ops");
    }
}

#[test]
fn every_prompt_with_every_seed_has_a_result_of_its_own() {
    let sh = Shell::new();
    sh.write("prompts.txt", "# two of them\na red circle\n\n a blue square \n");
    let several = format!("{TINY} --prompts prompts.txt --seeds 3,4 --out x.png --trace x.jsonl");
    let said = sh.answer(&several);
    let scenes = [("a red circle", 3), ("a red circle", 4), ("a blue square", 3), ("a blue square", 4)];
    assert_eq!(list(&said["runs"]).len(), scenes.len());
    for (i, (run, (prompt, seed))) in list(&said["runs"]).iter().zip(scenes).enumerate() {
        let sampling = &run["config"]["sampling"];
        assert_eq!((&sampling["prompt"], &sampling["seed"]), (&json!(prompt), &json!(seed)));
        let name = |ending: &str| format!("x-{}.{ending}", i + 1);
        assert_eq!(run["outputs"], json!([name("png"), name("png.toml"), name("jsonl")]));
        // Each result is that of a single run, and its configuration reproduces it.
        sh.answer(format!("{TINY} --prompt '{prompt}' --seed {seed} --out alone.png --overwrite"));
        sh.answer(format!("run --config {} --out again.png --overwrite", name("png.toml")));
        assert!(sh.same(&name("png"), "alone.png"), "{prompt}, {seed}");
        assert!(sh.same(&name("png"), "again.png"), "{prompt}, {seed}");
    }
    sh.refused(several, ["x-1.png", "exist already", "--overwrite"]);
    let one = ["--checkpoint keeps the state of one run, and 2 are asked for"];
    sh.refused(format!("{TINY} --seeds 1,2 --checkpoint state"), one);
    sh.write("empty.txt", "# none\n");
    sh.refused(format!("{TINY} --prompts empty.txt"), ["empty.txt has no prompts"]);
}

#[test]
fn who_asks_is_told_what_is_done() {
    let sh = Shell::new();
    let told = |more: &str| {
        let [_, told] = sh.said(format!("{TINY} --overwrite --out x.png {more}"));
        told
    };
    let none = told("");
    assert!(!none.contains("denoised") && !none.contains("hook="), "{none}");
    let some = told("-v");
    assert!(some.contains("denoised step=2 seconds=") && !some.contains("hook="), "{some}");
    let all = told("-vv");
    assert!(all.contains("step=0 branch=\"cond\" hook=0 blocks=0.."), "{all}");
    assert!(all.contains("why=\"warmup\""), "{all}");
    assert!(!all.contains('\u{1b}'), "no colours in a file");
    let loud = |line: &str| {
        let out = sh.command(line).env("RUST_LOG", "magcache_cli=loud").output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    assert_eq!(loud("list -q"), "", "quiet is quiet");
    assert!(loud("list").contains("RUST_LOG is \"magcache_cli=loud\""));
}

#[test]
fn ordinary_pictures_of_every_kind_are_taken() {
    let sh = Shell::new();
    image::GrayImage::from_pixel(50, 20, image::Luma([90])).save(sh.path("gray.png")).unwrap();
    image::RgbaImage::from_pixel(20, 50, image::Rgba([9, 200, 9, 100])).save(sh.path("alpha.png")).unwrap();
    let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(30, 30, image::Rgb([40_000u16, 9, 9]));
    deep.save(sh.path("deep.png")).unwrap();
    let run = "run --model wan2.2-i2v-tiny --steps 2";
    // The video has the aspect ratio of the image at the model's area.
    for (file, size) in [("gray.png", [192, 80]), ("alpha.png", [80, 192]), ("deep.png", [128, 128])] {
        let done = sh.answer(format!("{run} --frames 1 --out a.png --image {file} --overwrite"));
        assert_eq!(done["config"]["sampling"]["size"], json!(size), "{file}");
    }
    assert_eq!(sh.answer(format!("{run} --frames 5 --out b.gif"))["outputs"][0], "b.gif");
}

#[test]
fn tensors_that_nothing_reads_are_told() {
    let sh = Shell::new();
    copy_in_floats("wan2.1-t2v-tiny", &sh.path("model"));
    let run = |out: &str| {
        let run = "run --model model --cache none --steps 2 --frames 1 --size 32x32 --json --out";
        let [document, told] = sh.said(format!("{run} {out}"));
        (serde_json::from_str::<Value>(&document).unwrap()["notes"].clone(), told)
    };
    let (notes, told) = run("a.gif");
    assert!(notes.is_null() && !told.contains("nothing here reads"), "{told}");

    let surplus = [("transformer", "blocks.0.adapter.weight"), ("vae", "decoder.head.bias")];
    for (part, extra) in surplus {
        let file = sh.path("model").join(part).join("diffusion_pytorch_model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        tensors.insert(extra.to_owned(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
        candle_core::safetensors::save(&tensors, &file).unwrap();
    }
    let (notes, told) = run("b.gif");
    assert_eq!(list(&notes).len(), 2, "{notes}");
    for (note, (_, name)) in list(&notes).iter().zip(surplus) {
        let note = note.as_str().unwrap();
        assert!(note.ends_with(&format!("1 tensor that nothing here reads is left out: {name}")), "{note}");
        assert!(told.contains(&format!("note: {note}")), "{told}");
    }
    assert!(sh.same("a.gif", "b.gif"));
}
