//! Text to image and image to image, as a user meets them.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{fs, path::Path};

use serde_json::{Value, json};

use program::{answer, magcache};

/// Refused, with a hint.
#[track_caller]
fn refused(args: &[&str], folder: &Path, expected: &[&str]) {
    program::refused(args, folder, &[expected, &["\nhint: "]].concat());
}

const RUN: [&str; 7] = ["run", "--model", "tiny-flux", "--steps", "10", "--size", "48x40"];

fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&RUN[..], more].concat()
}

/// Red increases to the left, blue to the bottom.
fn photo(path: &Path) {
    image::RgbImage::from_fn(80, 50, |x, y| image::Rgb([255 - 3 * x as u8, 40, 5 * y as u8]))
        .save(path)
        .unwrap();
}

#[test]
fn a_run_is_repeated_from_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    photo(&d.join("in.png"));
    let bytes = |file: &str| fs::read(d.join(file)).unwrap();
    let again = |config: &str, out: &str| {
        answer(&["run", "--config", config, "--out", out, "--overwrite"], d);
        bytes(out)
    };
    for (name, more) in [
        ("text", &["--seed", "3"][..]),
        ("negative", &["--true-cfg", "2.5", "--negative-prompt", "a blue square"]),
        ("image", &["--image", "in.png", "--strength", "0.35"]),
        ("both", &["--image", "in.png", "--strength", "0.6", "--true-cfg", "1.5", "--sampler", "euler"]),
        ("default", &["--image", "in.png"]),
    ] {
        let png = format!("{name}.png");
        let (toml, dry) = (format!("{png}.toml"), format!("{name}-dry.toml"));
        let done = answer(&[&run(more)[..], &["--out", &png]].concat(), d);
        assert_eq!(done["outputs"], json!([png, toml]));
        assert!(again(&toml, "again.png") == bytes(&png), "{name}: another image");
        let planned = magcache(&[&run(more)[..], &["--dry-run"]].concat(), d);
        assert!(planned.status.success(), "{name}: {}", String::from_utf8_lossy(&planned.stderr));
        fs::write(d.join(&dry), planned.stdout).unwrap();
        assert!(again(&dry, "dry.png") == bytes(&png), "{name}: another image from the dry run");
    }
    let said = |file: &str, key: &str| -> Option<toml::Value> {
        let config: toml::Table = toml::from_str(&fs::read_to_string(d.join(file)).unwrap()).unwrap();
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
    let images = ["text", "negative", "image", "both", "default"].map(|name| bytes(&format!("{name}.png")));
    for (i, image) in images.iter().enumerate() {
        assert!(!images[i + 1..].contains(image), "image {i} is there twice");
    }
}

#[test]
fn a_size_follows_the_picture() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    photo(&d.join("in.png"));
    let args = ["run", "--model", "tiny-flux", "--steps", "2", "--image", "in.png", "--out", "out.png"];
    let done = answer(&args, d);
    // The aspect ratio of the image at the area of the model's 64 x 64 pixels, in whole tokens of 8 x 8.
    assert_eq!(done["config"]["sampling"]["size"], json!([80, 48]));
    assert_eq!(image::image_dimensions(d.join("out.png")).unwrap(), (80, 48));
}

#[test]
fn what_these_models_do_not_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    photo(&d.join("in.png"));
    let image = ["--image", "in.png", "--strength"];
    for (strength, found) in [("0", "is 0,"), ("1.5", "is 1.5"), ("nan", "is NaN"), ("inf", "is inf")] {
        let with = [&image[..], &[strength]].concat();
        refused(&run(&with), d, &[&format!("strength {found}"), "above 0 and at most 1"]);
    }
    refused(&run(&["--image", "in.png", "--strength=-0.5"]), d, &["strength is -0.5"]);
    refused(&run(&["--image", "in.png", "--strength", "1e-20"]), d, &["leaves none of 10", "at least 0.1"]);
    refused(&run(&["--strength", "0.6"]), d, &["strength is 0.6", "no image", "--image"]);
    refused(&run(&["--last-image", "in.png"]), d, &["last_image is given, but tiny-flux does not take it"]);
    refused(&run(&["--frames", "5"]), d, &["5 frames", "one image"]);
    refused(
        &run(&["--guidance-2", "2"]),
        d,
        &["guidance_2 is 2, but tiny-flux does not take it", "two experts"],
    );
    refused(&run(&["--boundary", "0.5"]), d, &["boundary is 0.5", "two experts"]);
    let sized = |size: &'static str| ["run", "--model", "tiny-flux", "--size", size];
    refused(&sized("60x64"), d, &["width 60", "multiple of 8", "nearest is 64"]);
    refused(&sized("64x3"), d, &["height 3", "multiple of 8", "nearest is 8"]);
    refused(&run(&["--true-cfg", "nan"]), d, &["true_cfg is NaN"]);
    refused(&run(&["--true-cfg=-1"]), d, &["true_cfg is -1"]);
    refused(&run(&["--guidance", "inf"]), d, &["guidance is inf"]);

    let wan = ["run", "--model", "wan2.2-i2v-tiny", "--steps", "2", "--frames", "1"];
    refused(&[&wan[..], &image, &["0.6"]].concat(), d, &["strength is 0.6", "models of images"]);
    refused(&[&wan[..], &["--true-cfg", "2"]].concat(), d, &["true_cfg is 2", "--guidance"]);
}

/// The lines of a trace.
fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn steps_keep_their_numbers_where_a_run_begins_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    photo(&d.join("in.png"));
    let start = run(&["--image", "in.png", "--strength", "0.6", "--seed", "5"]);
    let text = answer(
        &[&run(&["--cache", "magcache", "--trace", "text.jsonl"])[..], &["--out", "t.png"]].concat(),
        d,
    );
    assert_eq!(text["experts"][0]["passes"], 10);
    let whole: Vec<Value> = lines(&d.join("text.jsonl"));
    for cache in [
        &["--cache", "fbcache", "--set", "threshold=0.3"][..],
        // A curve over the whole schedule, of which the run covers only the end.
        &["--cache", "magcache", "--set", "threshold=0.5", "--set", "warmup=0"],
    ] {
        let done = answer(
            &[&start[..], cache, &["--trace", "a.jsonl", "--out", "a.png", "--overwrite"]].concat(),
            d,
        );
        assert_eq!(done["experts"][0]["passes"], 6, "{cache:?}");
        let trace = lines(&d.join("a.jsonl"));
        let steps: Vec<u64> = trace.iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [4, 5, 6, 7, 8, 9], "{cache:?}");
        for (line, plain) in trace.iter().zip(&whole[4..]) {
            for key in ["step", "of", "timestep", "sigma"] {
                assert_eq!(line[key], plain[key], "{cache:?}, {key}");
            }
            assert_eq!(line["of"], 10, "{cache:?}");
        }
        assert_eq!((&trace[0]["decision"], &trace[0]["reason"]), (&json!("compute"), &json!("no-history")));
        let reused: Vec<&Value> =
            trace.iter().filter(|line| line["decision"] == "reuse").map(|line| &line["step"]).collect();
        assert!(!reused.is_empty(), "{cache:?} skips nothing");
        assert_eq!(json!(reused), done["skipped"]["cond"], "{cache:?}");
        // Replaying the same steps by number gives the same image.
        answer(&[&start[..], &["--cache", "replay:a.jsonl", "--out", "b.png", "--overwrite"]].concat(), d);
        assert!(
            fs::read(d.join("a.png")).unwrap() == fs::read(d.join("b.png")).unwrap(),
            "{cache:?}: another image"
        );
    }
}

#[test]
fn the_demo_shows_images() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let demo = answer(&["demo", "--model", "tiny-flux", "--steps", "8", "--out", "out"], d);
    let rows = demo["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["dense", "magcache", "teacache", "fbcache"]);
    let pixels = |name: &str| image::open(d.join("out").join(name).with_extension("png")).unwrap().to_rgb8();
    let dense = pixels("dense");
    assert_eq!(dense.dimensions(), (64, 64));
    assert!(dense.pixels().any(|pixel| pixel != dense.get_pixel(0, 0)), "an empty picture");
    for row in rows {
        let (name, skipped) = (row["name"].as_str().unwrap(), row["skipped"].as_u64().unwrap());
        assert_eq!(row["computed"].as_u64().unwrap() + skipped, 8, "{name}");
        assert_eq!(pixels(name) == dense, skipped == 0, "{name} skipped {skipped}");
    }
    let page = fs::read_to_string(d.join("out/report.html")).unwrap();
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 4);
    assert!(!page.contains("<video"), "a page of images has nothing to play");
}

#[test]
fn webp_holds_the_same_pixels_as_png() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    answer(&run(&["--out", "a.png"]), d);
    answer(&run(&["--out", "a.webp"]), d);
    let [png, webp] = ["a.png", "a.webp"].map(|name| image::open(d.join(name)).unwrap().to_rgb8());
    assert_eq!(png.dimensions(), (48, 40));
    assert!(png == webp);
}

#[test]
fn guidance_is_left_out_only_where_a_run_has_two_branches() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let cfg = ["--cache", "cfg-cache", "--set", "interval=3", "--out", "a.png"];
    refused(&run(&cfg), d, &["the run has cond alone", "--true-cfg"]);
    let ran = answer(&run(&[&cfg[..], &["--true-cfg", "2"]].concat()), d);
    assert!(!ran["skipped"]["uncond"].as_array().unwrap().is_empty(), "{ran}");
    assert_eq!(ran["skipped"]["cond"], json!([]));
}
