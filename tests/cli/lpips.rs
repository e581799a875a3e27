//! LPIPS against the package of its authors, and `--metric lpips`.

use std::{collections::BTreeMap, fs};

use candle_core::{Device, Tensor};
use magcache_cli::quality::{Lpips, QualityError};
use serde_json::Value;

use crate::program::{Shell, fixture, list};

fn recorded() -> Value {
    serde_json::from_str(&fs::read_to_string(fixture("quality/lpips.json")).unwrap()).unwrap()
}

/// A number mixed to 32 bits that look random, as `tests/reference/lpips_fixtures.py` does.
fn mixed(number: usize) -> u32 {
    let mut h = number as u32;
    for (shift, factor) in [(16, 0x85EB_CA6B), (13, 0xC2B2_AE35)] {
        h = (h ^ (h >> shift)).wrapping_mul(factor);
    }
    h ^ (h >> 16)
}

/// The weights of a recorded network, which follow from their names and shapes.
fn weights(network: &Value) -> BTreeMap<String, Tensor> {
    let mut start = 0;
    let mut tensors = BTreeMap::new();
    let shapes: BTreeMap<&String, &Value> = network["tensors"].as_object().unwrap().iter().collect();
    for (name, shape) in shapes {
        let shape: Vec<usize> = list(shape).iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let count: usize = shape.iter().product();
        let unit = |i: usize| (mixed(start + i) >> 8) as f32 / 8_388_608.0 - 1.0;
        let scale = ((6.0 / shape[1..].iter().product::<usize>() as f64).sqrt()) as f32;
        let value = |i: usize| match name {
            _ if name.starts_with("lin") => unit(i).abs(),
            _ if shape.len() == 1 => unit(i) * 0.125,
            _ => unit(i) * scale,
        };
        let values: Vec<f32> = (0..count).map(value).collect();
        start += count;
        tensors.insert(name.clone(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
    for (name, values) in network["scaling_layer"].as_object().unwrap() {
        let values: Vec<f32> = list(values).iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let tensor = Tensor::from_vec(values, (1, 3, 1, 1), &Device::Cpu).unwrap();
        tensors.insert(format!("scaling_layer.{name}"), tensor);
    }
    tensors
}

fn write(sh: &Shell, name: &str, tensors: &BTreeMap<String, Tensor>) {
    safetensors::serialize_to_file(tensors, None, &sh.path(name)).unwrap();
}

/// A picture of stripes and blobs, one with noise on it, and one moved by two pixels: `[1, height, width, 3]`
/// each.
fn pictures(height: usize, width: usize, seed: usize) -> [Tensor; 3] {
    let at =
        |x: usize, y: usize, c: usize| (x * 5 + y * 3 + c * 40 + (x / 9) * (y / 7) * 31 + seed * 17) % 256;
    let picture = |value: &dyn Fn(usize, usize, usize) -> usize| {
        let places = (0..height * width * 3).map(|i| (i / 3 % width, i / 3 / width, i % 3));
        let values: Vec<f32> = places.map(|(x, y, c)| value(x, y, c) as f32 / 255.0).collect();
        Tensor::from_vec(values, (1, height, width, 3), &Device::Cpu).unwrap()
    };
    let noise = |x: usize, y: usize, c: usize| mixed((seed << 20) + (y * width + x) * 3 + c) as usize & 31;
    [
        picture(&at),
        picture(&|x, y, c| at(x, y, c) ^ noise(x, y, c)),
        picture(&|x, y, c| at((x + width - 2) % width, y, c)),
    ]
}

/// Sums in another order differ in the last digits.
fn assert_near(found: f64, wanted: &Value, what: &str) {
    let wanted = wanted.as_f64().unwrap();
    assert!((found - wanted).abs() < 2e-5 * wanted + 1e-9, "{what}: {found} instead of {wanted}");
}

#[test]
fn distances_are_those_of_the_package() {
    let (sh, recorded) = (Shell::new(), recorded());
    for (name, network) in recorded["networks"].as_object().unwrap() {
        let mut tensors = weights(network);
        write(&sh, "weights.safetensors", &tensors);
        let lpips = Lpips::open(&sh.path("weights.safetensors")).unwrap();
        assert_eq!(lpips.network(), name);
        assert_eq!(Some(lpips.side() as u64), network["smallest_side"].as_u64(), "{name}");
        for pair in list(&network["pairs"]) {
            let [height, width, seed] =
                ["height", "width", "seed"].map(|key| pair[key].as_u64().unwrap() as usize);
            let [a, noisy, moved] = pictures(height, width, seed);
            let what = format!("{name}, {height} x {width}");
            for (b, key) in [(noisy, "noisy"), (moved, "moved")] {
                assert_near(lpips.compare(&a, &b).unwrap().mean, &pair[key], &what);
            }
            assert_eq!(lpips.compare(&a, &a).unwrap().mean, 0.0);
        }
        for part in ["weight", "bias"] {
            let tensor = tensors.get_mut(&format!("net.slice1.0.{part}")).unwrap();
            *tensor = tensor.affine(2f64.powi(-32), 0.0).unwrap();
        }
        write(&sh, "faint.safetensors", &tensors);
        let [a, noisy, _] = pictures(64, 64, 0);
        let faint = Lpips::open(&sh.path("faint.safetensors")).unwrap();
        assert_near(faint.compare(&a, &noisy).unwrap().mean, &network["faint"], "faint features");
    }
}

#[test]
fn a_video_has_the_mean_of_its_frames_and_the_worst_of_them() {
    let (sh, recorded) = (Shell::new(), recorded());
    let network = &recorded["networks"]["squeeze"];
    write(&sh, "weights.safetensors", &weights(network));
    let lpips = Lpips::open(&sh.path("weights.safetensors")).unwrap();
    let [a, noisy, moved] = pictures(64, 64, 0);
    let [one, two] = [vec![&a; 3], vec![&a, &noisy, &moved]].map(|all| Tensor::cat(&all, 0).unwrap());
    let (found, pair) = (lpips.compare(&one, &two).unwrap(), &network["pairs"][0]);
    let [noisy, moved] = ["noisy", "moved"].map(|key| pair[key].as_f64().unwrap());
    assert!((found.mean - (noisy + moved) / 3.0).abs() < 1e-5, "{found:?}");
    // numpy.percentile([0, noisy, moved], 95)
    assert!((found.worst - (0.1 * noisy + 0.9 * moved)).abs() < 1e-5, "{found:?}");

    let small = a.narrow(1, 0, 16).unwrap();
    let told = lpips.compare(&small, &small).unwrap_err();
    assert!(matches!(told, QualityError::TooSmallFor { network: "squeeze", side: 17, .. }), "{told}");
    assert!(matches!(lpips.compare(&small, &a), Err(QualityError::Shape { .. })));
}

#[test]
fn compare_and_pareto_tell_it_beside_the_others() {
    let (sh, recorded) = (Shell::new(), recorded());
    write(&sh, "w.safetensors", &weights(&recorded["networks"]["squeeze"]));
    let flags = "--metric lpips --lpips-weights w.safetensors";
    sh.write("half.toml", "[[cache]]\nstrategy = 'schedule'\nskip = [3, 5]\n");
    let compare = "compare --model tiny-flux --steps 6 half.toml --seeds 1,2 --out";
    let found = sh.answer(format!("{compare} out {flags}"));
    let [dense, half] = [0, 1].map(|row| &found["rows"][row]);
    assert_eq!([&dense["lpips"], &dense["lpips_worst"]], [&Value::Null; 2]);
    let lpips = |of: &Value| of["lpips"].as_f64().unwrap();
    assert!(lpips(half) > 0.0, "{half}");
    assert!((lpips(half) - f64::midpoint(lpips(&half["seeds"][0]), lpips(&half["seeds"][1]))).abs() < 1e-12);
    assert_eq!(half["lpips"], half["lpips_worst"], "an image is one frame");
    assert!(half["lpips_standard_error"].is_f64());
    // It is the distance of the images that were written.
    let image = |lane: &str| {
        let pixels = image::open(sh.path(&format!("out/{lane}.png"))).unwrap().into_rgb8();
        let shape = (1, pixels.height() as usize, pixels.width() as usize, 3);
        let values: Vec<f32> = pixels.iter().map(|v| f32::from(*v) / 255.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let own = Lpips::open(&sh.path("w.safetensors")).unwrap();
    let read = own.compare(&image("half"), &image("dense")).unwrap().mean;
    // Rounding to 8 bits moves it a little.
    assert!((read - lpips(&half["seeds"][0])).abs() < 0.05 * read, "{read} {half}");
    assert!(sh.text("out/report.html").contains("<th scope=\"col\">LPIPS</th>"));

    let [table, _] = sh.said(format!("{compare} two {flags}"));
    assert!(table.contains("LPIPS") && table.contains("(95%: "), "{table}");
    let [table, _] = sh.said(format!("{compare} three"));
    assert!(!table.contains("LPIPS"), "{table}");
    assert!(!sh.text("three/report.html").contains(">LPIPS<"));

    let pareto = "pareto --model tiny-flux --budgets 14 --strategies magcache --search 1";
    let found = sh.answer(format!("{pareto} {flags}"));
    for row in list(&found["rows"]) {
        assert!(lpips(row) > 0.0 && row["lpips_error"].is_f64(), "{row}");
    }
}

#[test]
fn what_is_no_use_is_refused_with_its_reason() {
    let (sh, recorded) = (Shell::new(), recorded());
    let whole = weights(&recorded["networks"]["squeeze"]);
    write(&sh, "whole.safetensors", &whole);
    // The package's own files hold the heads alone.
    let heads = whole.clone().into_iter().filter(|(name, _)| name.starts_with("lin")).collect();
    write(&sh, "heads.safetensors", &heads);
    let mut wrong = whole.clone();
    wrong.insert("net.slice3.6.squeeze.weight".to_owned(), whole["net.slice2.3.squeeze.weight"].clone());
    write(&sh, "wrong.safetensors", &wrong);
    let compare = "compare --model tiny-flux --steps 4 fbcache";
    for (flags, words) in [
        ("--metric lpips", ["--metric lpips needs the weights", "--lpips-weights FILE, the state_dict() of"]),
        ("--lpips-weights whole.safetensors", ["--metric <NAME>", "help"]),
        ("--metric lpips --lpips-weights no.pth", ["state_dict() of lpips.LPIPS", "no.pth does not exist"]),
        (
            "--metric lpips --lpips-weights heads.safetensors",
            ["state_dict() of lpips.LPIPS", "no tensor \"net.slice1.0.weight\""],
        ),
        (
            "--metric lpips --lpips-weights wrong.safetensors",
            [
                "\"net.slice3.6.squeeze.weight\"",
                "has shape [16, 64, 1, 1], the configuration needs [32, 128, 1, 1]",
            ],
        ),
        (
            "--metric lpips --lpips-weights whole.safetensors --size 16x32",
            ["squeeze needs at least 17x17 pixels, got 16x32", "hint: a larger --size"],
        ),
    ] {
        sh.refused(format!("{compare} {flags}"), words);
        sh.refused(format!("pareto --model tiny-flux --steps 4 --budgets 2 {flags}"), words);
    }
}
