//! Text to image and image to image, as a user meets them.

use serde_json::{Value, json};

use crate::program::{Shell, skipped};

const RUN: &str = "run --model tiny-flux --steps 10 --size 48x32";

/// A shell with `in.png`, in which red increases to the left and blue to the bottom.
fn with_photo() -> Shell {
    let sh = Shell::new();
    let pixel = |x, y| image::Rgb([255 - 3 * x as u8, 40, 5 * y as u8]);
    image::RgbImage::from_fn(80, 50, pixel).save(sh.path("in.png")).unwrap();
    sh
}

#[test]
fn a_run_is_repeated_from_its_configuration() {
    let sh = with_photo();
    let cases = [
        ("text", "--seed 3"),
        ("negative", "--true-cfg 2.5 --negative-prompt 'a blue square'"),
        ("image", "--image in.png --strength 0.35"),
        ("both", "--image in.png --strength 0.6 --true-cfg 1.5 --sampler euler"),
        ("default", "--image in.png"),
    ];
    for (name, more) in cases {
        let (png, dry) = (format!("{name}.png"), format!("{name}-dry.toml"));
        let done = sh.answer(format!("{RUN} {more} --out {png}"));
        assert_eq!(done["outputs"], json!([png, format!("{png}.toml")]));
        let [planned, _] = sh.said(format!("{RUN} {more} --dry-run"));
        sh.write(&dry, planned);
        for config in [format!("{png}.toml"), dry] {
            sh.answer(format!("run --config {config} --out again.png --overwrite"));
            assert!(sh.same("again.png", &png), "{config}: another image");
        }
    }
    let said = |file: &str, key: &str| -> Option<toml::Value> {
        let config: toml::Table = toml::from_str(&sh.text(file)).unwrap();
        config["sampling"].get(key).cloned()
    };
    for file in ["both.png.toml", "both-dry.toml"] {
        assert_eq!(said(file, "strength"), Some(0.6.into()), "{file}");
        assert_eq!(said(file, "true_cfg"), Some(1.5.into()), "{file}");
        assert_eq!(said(file, "image"), Some("in.png".into()), "{file}");
    }
    assert_eq!(said("default.png.toml", "strength"), Some(0.6.into()), "what the model filled in");
    assert_eq!((said("text.png.toml", "strength"), said("text.png.toml", "true_cfg")), (None, None));
    // Each of these settings changes the image.
    let images = cases.map(|(name, _)| sh.bytes(&format!("{name}.png")));
    for (i, image) in images.iter().enumerate() {
        assert!(!images[i + 1..].contains(image), "image {i} is there twice");
    }
}

#[test]
fn a_size_follows_the_picture() {
    let sh = with_photo();
    let done = sh.answer("run --model tiny-flux --steps 2 --image in.png --out out.png");
    // The aspect ratio of the image at the area of the model's 128 x 128 pixels, in whole tokens of 16 x 16.
    assert_eq!(done["config"]["sampling"]["size"], json!([160, 96]));
    assert_eq!(image::image_dimensions(sh.path("out.png")).unwrap(), (160, 96));
}

#[test]
fn what_these_models_do_not_take_is_refused() {
    let sh = with_photo();
    let cases: [(&str, &[&str]); 15] = [
        ("--image in.png --strength 0", &["strength is 0,", "above 0 and at most 1"]),
        ("--image in.png --strength 1.5", &["strength is 1.5", "above 0 and at most 1"]),
        ("--image in.png --strength nan", &["strength is NaN", "above 0 and at most 1"]),
        ("--image in.png --strength inf", &["strength is inf", "above 0 and at most 1"]),
        ("--image in.png --strength=-0.5", &["strength is -0.5"]),
        ("--image in.png --strength 1e-20", &["leaves none of 10", "at least 0.1"]),
        ("--strength 0.6", &["strength is 0.6", "no image", "--image"]),
        ("--last-image in.png", &["last_image is given, but tiny-flux does not take it"]),
        ("--frames 5", &["5 frames", "one image"]),
        ("--guidance-2 2", &["guidance_2 is 2, but tiny-flux does not take it", "two experts"]),
        ("--boundary 0.5", &["boundary is 0.5", "two experts"]),
        ("--true-cfg nan", &["true_cfg is NaN"]),
        ("--true-cfg=-1", &["true_cfg is -1"]),
        ("--guidance inf", &["guidance is inf"]),
        ("--cache cfg-cache --set interval=3", &["the run has cond alone", "--true-cfg"]),
    ];
    for (more, expected) in cases {
        sh.hinted(format!("{RUN} {more}"), expected.iter().copied());
    }
    let size = "run --model tiny-flux --size";
    sh.hinted(format!("{size} 60x64"), ["width 60", "multiple of 16", "nearest is 64"]);
    sh.hinted(format!("{size} 64x3"), ["height 3", "multiple of 16", "nearest is 16"]);

    let wan = "run --model wan2.2-i2v-tiny --steps 2 --frames 1";
    sh.hinted(format!("{wan} --image in.png --strength 0.6"), ["strength is 0.6", "models of images"]);
    sh.hinted(format!("{wan} --true-cfg 2"), ["true_cfg is 2", "--guidance"]);
}

#[test]
fn steps_keep_their_numbers_where_a_run_begins_in_the_middle() {
    let sh = with_photo();
    let start = format!("{RUN} --image in.png --strength 0.6 --seed 5 --overwrite");
    let text = sh.answer(format!("{RUN} --cache magcache --trace text.jsonl --out t.png"));
    assert_eq!(text["experts"][0]["passes"], 10);
    let whole = sh.trace("text.jsonl");
    for cache in [
        "fbcache --set threshold=0.3",
        // A curve over the whole schedule, of which the run covers only the end.
        "magcache --set threshold=0.5 --set warmup=0",
    ] {
        let done = sh.answer(format!("{start} --cache {cache} --trace a.jsonl --out a.png"));
        assert_eq!(done["experts"][0]["passes"], 6, "{cache}");
        let trace = sh.trace("a.jsonl");
        let steps: Vec<u64> = trace.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [4, 5, 6, 7, 8, 9], "{cache}");
        for (line, plain) in trace.iter().zip(&whole[4..]) {
            for key in ["step", "of", "timestep", "sigma"] {
                assert_eq!(line[key], plain[key], "{cache}, {key}");
            }
            assert_eq!(line["of"], 10, "{cache}");
        }
        assert_eq!([&trace[0]["decision"], &trace[0]["reason"]], ["compute", "no-history"]);
        let reused = trace.iter().filter(|line| line["decision"] == "reuse").map(|line| &line["step"]);
        let reused: Vec<&Value> = reused.collect();
        assert!(!reused.is_empty(), "{cache} skips nothing");
        assert_eq!(json!(reused), done["skipped"]["cond"], "{cache}");
        // Replaying the same steps by number gives the same image.
        sh.answer(format!("{start} --cache replay:a.jsonl --out b.png"));
        assert!(sh.same("a.png", "b.png"), "{cache}: another image");
    }
}

#[test]
fn webp_holds_the_same_pixels_as_png() {
    let sh = Shell::new();
    let [png, webp] = ["a.png", "a.webp"].map(|name| {
        sh.answer(format!("{RUN} --out {name}"));
        image::open(sh.path(name)).unwrap().to_rgb8()
    });
    assert_eq!(png.dimensions(), (48, 32));
    assert!(png == webp);
}

#[test]
fn guidance_is_left_out_where_a_run_has_two_branches() {
    let ran =
        Shell::new().answer(format!("{RUN} --cache cfg-cache --set interval=3 --out a.png --true-cfg 2"));
    assert!(!skipped(&ran, "uncond").is_empty(), "{ran}");
    assert_eq!(ran["skipped"]["cond"], json!([]));
}
