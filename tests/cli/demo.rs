//! `demo`: its table, its results and its page.

use std::fs;

use serde_json::Value;

use crate::program::{Shell, list};

/// Runs a demo into `demo`: the names of its rows and what each skipped, and the page.
fn demo(sh: &Shell, model: &str, steps: u64, passes: u64) -> (Vec<(String, u64)>, String) {
    let found = sh.answer(format!("demo --quick --model {model} --steps {steps} --out demo"));
    let rows = list(&found["rows"]).iter().map(|row| {
        for key in ["ceiling", "speedup", "transformer_speedup", "seconds", "cache_bytes"] {
            assert!(row[key].is_number(), "{key} of {row}");
        }
        let skipped = row["skipped"].as_u64().unwrap();
        assert_eq!(row["computed"].as_u64().unwrap() + skipped, passes, "{row}");
        (row["name"].as_str().unwrap().to_owned(), skipped)
    });
    let rows: Vec<_> = rows.collect();
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["dense", "magcache", "teacache", "fbcache"]);
    assert!(found["rows"][0]["psnr"].is_null() && found["rows"][1]["ssim"].as_f64().unwrap() <= 1.0);
    (rows, sh.text("demo/report.html"))
}

#[test]
fn of_videos() {
    let sh = Shell::new();
    let (rows, page) = demo(&sh, "wan2.1-t2v-tiny", 10, 20);
    for (name, _) in rows {
        assert!(fs::metadata(sh.path(&format!("demo/{name}.mp4"))).unwrap().len() > 500);
    }
    assert_eq!(page.matches("<video").count(), 4);
    for elsewhere in ["src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!page.contains(elsewhere), "the page must not need a network");
    }
}

#[test]
fn of_images() {
    let sh = Shell::new();
    let (rows, page) = demo(&sh, "tiny-flux", 8, 8);
    let pixels = |name: &str| image::open(sh.path(&format!("demo/{name}.png"))).unwrap().to_rgb8();
    let dense = pixels("dense");
    assert_eq!(dense.dimensions(), (128, 128));
    assert!(dense.pixels().any(|pixel| pixel != dense.get_pixel(0, 0)), "an empty picture");
    for (name, skipped) in rows {
        assert_eq!(pixels(&name) == dense, skipped == 0, "{name} skipped {skipped}");
    }
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 4);
    assert!(!page.contains("<video"), "a page of images has nothing to play");
}

#[test]
fn from_an_image_has_the_image() {
    let sh = Shell::new();
    let found = sh.answer("demo --quick --model wan2.2-i2v-tiny --steps 3 --out demo");
    assert!(list(&found["outputs"]).contains(&"demo/image.png".into()), "{}", found["outputs"]);
    let config: toml::Table = toml::from_str(&sh.text("demo/dense.mp4.toml")).unwrap();
    assert_eq!(config["sampling"]["image"].as_str(), Some("image.png"));
    sh.answer("run --config demo/dense.mp4.toml --out again.mp4");
    assert!(sh.same("demo/dense.mp4", "again.mp4"));
}

#[test]
fn of_one_model_has_the_plan_and_fewer_steps_too() {
    let sh = Shell::new();
    let names =
        |found: &Value| list(&found["rows"]).iter().map(|row| row["name"].clone()).collect::<Vec<_>>();
    let found = sh.answer("demo --model tiny-flux --out demo");
    assert_eq!(names(&found)[..5], ["dense", "planner", "magcache", "teacache", "fbcache"]);
    assert_eq!(found["rows"][1]["computed"], 14);
    assert!(list(&found["rows"])[5..].iter().all(|row| row["role"] == "baseline"), "{found}");
    // Nothing is planned for runs of 9 steps.
    let [_, told] = sh.said("demo --model tiny-flux --steps 9 --out other");
    assert!(told.contains("planner is left out"), "{told}");
}

#[test]
fn without_arguments_is_a_gallery() {
    let sh = Shell::new();
    let found = sh.answer("demo --out demo");
    let page = sh.text("demo/report.html");
    let (mut lanes, mut videos) = (0, 0);
    for (i, scene) in list(&found["scenes"]).iter().enumerate() {
        let model = scene["model"].as_str().unwrap();
        let rows = list(&scene["rows"]);
        lanes += rows.len();
        videos += if model == "tiny-flux" { 0 } else { rows.len() };
        let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(names[..5], ["dense", "planner", "fbcache", "magcache", "teacache"], "{model}");
        let passes = rows[0]["computed"].as_u64().unwrap();
        for row in &rows[1..] {
            let half = row["computed"].as_f64().unwrap() / passes as f64;
            assert!((half - 0.5).abs() <= 0.07, "{model}: {} computes {half}", row["name"]);
        }
        assert!(page.contains(scene["prompt"].as_str().unwrap()));
        let own = format!("{}-{model}/report.html", i + 1);
        assert!(page.contains(&format!("href=\"{own}\"")) && sh.path(&format!("demo/{own}")).is_file());
    }
    assert!(list(&found["scenes"]).len() >= 4);
    assert_eq!((page.matches("data-lane=").count(), page.matches("<video").count()), (lanes, videos));
    assert_eq!(page.matches("id=\"playback\"").count(), 1, "one control for all");
}
