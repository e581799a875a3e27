//! What cannot be run is refused before anything is written, and the fault is named.

use std::fs;

use crate::{
    floats::copy_in_floats,
    program::{Shell, copy, tiny},
};

#[test]
fn bad_values() {
    let sh = Shell::new();
    sh.refused("run --steps 0", ["steps"]);
    sh.refused("run --size 70x64", ["width 70", "multiple of 16", "hint: the nearest is 64"]);
    sh.refused("run --frames 6", ["6 frames", "hint: try 5 or 9"]);
    sh.refused("run --guidance=-1", ["guidance is -1"]);
    sh.refused("run --flow-shift nan", ["shift"]);
    sh.refused("run --sampler unipx", ["unknown sampler \"unipx\"", "did you mean \"unipc\"?"]);
    sh.refused("run --cache magcash", ["unknown strategy \"magcash\"", "did you mean \"magcache\"?"]);
    let typo = ["unknown key `treshold`", "did you mean `threshold`?"];
    sh.refused("run --cache magcache --set treshold=0.1", typo);
    sh.refused("run --cache magcache --set warmup=1.5", ["`warmup` is 1.5", "between 0 and 1"]);
    sh.refused("run --cache magcache --profile wan2.1-t2v-1.4b", ["unknown profile", "did you mean"]);
    sh.refused("run --device tpu", ["unknown device"]);
    let metal = ["no build of this program computes with Metal", "hint: --device cpu"];
    sh.refused("run --device metal", metal);
    sh.refused("run --out video.avi", [".avi"]);
    sh.refused("run --out /proc/nowhere/video.mp4", ["/proc", "cannot write"]);
    sh.refused("run --model no-such-folder", ["no-such-folder"]);
    sh.refused(format!("run --prompt '{}'", "word ".repeat(20_000)), ["100000 characters", "20000"]);
    sh.refused("run --fps 0", ["`fps` is 0"]);
    sh.refused("run --guidance-2 2", ["guidance_2 is 2", "two experts"]);
    sh.refused("run --boundary 0.5", ["boundary is 0.5", "two experts"]);
}

#[test]
fn a_configuration_file_is_read_strictly() {
    let sh = Shell::new();
    for (name, text, expected) in [
        ("syntax.toml", "[sampling\nsteps = 3", &["syntax.toml"][..]),
        ("key.toml", "[sampling]\nstep = 3", &["key.toml", "unknown key `step`", "did you mean `steps`?"]),
        ("type.toml", "[sampling]\nsteps = 'three'", &["type.toml", "steps"]),
        ("nan.toml", "cache = [{ strategy = 'magcache', ratios = [1.0, nan] }]", &["ratios.cond[1]", "NaN"]),
        (
            "lengths.toml",
            "cache = [{ strategy = 'magcache', ratios = { cond = [1.0, 0.9], uncond = [1.0] } }]",
            &["`ratios.uncond` has 1 value, `steps` is 2"],
        ),
        ("model.toml", "model = 'wan2.1-t2v'", &["no weights", "hint:"]),
        (
            "table.toml",
            "[cache]\nstrategy = 'fbcache'",
            &["`cache` is a table, it must be a list", "hint: [[cache]]"],
        ),
        (
            "list.toml",
            "[[sampling]]\nsteps = 3",
            &["`sampling` is a list, it must be a table", "hint: [sampling]"],
        ),
        (
            "forecast.toml",
            "[[cache]]\nstrategy = 'fbcache'\nforecast = 'taylor'",
            &["a table with `type`", "hint: forecast = { type = \"taylor\" }"],
        ),
    ] {
        sh.write(name, text);
        sh.refused(format!("run --config {name}"), expected.iter().copied());
    }
    sh.write("short.toml", "name = 'short'\n[[curve]]\nsteps = 3\n[curve.ratios]\ncond = [1.0, 0.9]\n");
    let short = ["`ratios.cond` has 2 values, `steps` is 3"];
    sh.refused("run --cache magcache --profile short.toml", short);
    sh.refused("run --config absent.toml", ["absent.toml"]);
}

#[test]
fn a_damaged_checkpoint() {
    let sh = Shell::new();
    copy_in_floats("wan2.1-t2v-tiny", &sh.path("model"));
    let (weights, config) =
        ("model/transformer/diffusion_pytorch_model.safetensors", "model/transformer/config.json");
    let (whole, text) = (sh.bytes(weights), sh.text(config));
    let refused = |expected: &[&str]| {
        sh.refused("run --steps 8 --frames 5 --model model", expected.iter().copied());
    };
    for damaged in [&whole[..whole.len() / 2], b"not a checkpoint"] {
        sh.write(weights, damaged);
        refused(&["diffusion_pytorch_model.safetensors"]);
    }
    fs::remove_file(sh.path(weights)).unwrap();
    refused(&["transformer"]);

    // The header is JSON, preceded by its length: edit it in place without changing that length.
    let rewritten = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        [&whole[..at], to.as_bytes(), &whole[at + to.len()..]].concat()
    };
    sh.write(weights, rewritten("blocks.0.ffn.net.2.bias", "blocks.0.ffn.net.2.bear"));
    refused(&["blocks.0.ffn.net.2.bias"]);
    sh.write(weights, rewritten("\"dtype\":\"F32\"", "\"dtype\":\"I32\""));
    refused(&["I32"]);

    sh.write(weights, &whole);
    sh.write(config, text.replace("\"ffn_dim\": 384", "\"ffn_dim\": 392"));
    refused(&["392", "384"]);
    sh.write(config, text.replace("WanTransformer3DModel", "FluxTransformer2DModel"));
    refused(&["FluxTransformer2DModel"]);
    sh.write(config, &text);
    let index = sh.text("model/model_index.json");
    sh.write("model/model_index.json", index.replace("WanPipeline", "WanPipelone"));
    refused(&["WanPipelone", "WanPipeline"]);
}

#[test]
fn a_pair_that_lacks_an_expert() {
    let sh = Shell::new();
    copy(&tiny("wan2.2-t2v-tiny"), &sh.path("pair"));
    for part in ["text_encoder", "tokenizer", "vae"] {
        copy(&tiny("wan2.1-t2v-tiny").join(part), &sh.path("pair").join(part));
    }
    let run = "run --model pair --steps 2 --frames 1 --size 32x32 --out";
    sh.answer(format!("{run} a.png"));
    fs::remove_dir_all(sh.path("pair/transformer_2")).unwrap();
    sh.refused(format!("{run} b.png"), ["transformer_2"]);
}

#[test]
fn pictures_that_cannot_be_used() {
    let sh = Shell::new();
    let wide = image::RgbImage::new(20_000, 2);
    wide.save(sh.path("wide.png")).unwrap();
    sh.write("cut.png", &sh.bytes("wide.png")[..40]);
    sh.write("text.png", "not a picture");
    sh.write("empty.jpg", "");
    for (file, expected) in [
        ("text.png", &["not a picture", "hint: "][..]),
        ("empty.jpg", &["empty"]),
        ("absent.png", &[]),
        ("wide.png", &["20000", "16384"]),
        ("cut.png", &[]),
    ] {
        let run = format!("run --model wan2.2-i2v-tiny --steps 2 --image {file}");
        sh.refused(run, expected.iter().copied().chain([file]));
    }
    let untaken = ["image is given, but wan2.1-t2v-tiny does not take it", "hint: remove the image"];
    fs::copy(tiny("wan2.2-i2v-tiny").join("example.png"), sh.path("good.png")).unwrap();
    sh.refused("run --image good.png", untaken);
}
