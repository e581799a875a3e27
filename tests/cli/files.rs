//! What the program writes, and what it never overwrites.

use std::{fs, path::Path};

use serde_json::json;

use crate::program::{Shell, fixture, list};

/// An image run that takes almost no time.
const IMAGE: &str = "run --model tiny-flux --steps 2";

#[test]
fn the_configuration_of_a_result_has_its_whole_name_and_replaces_nothing() {
    let sh = Shell::new();
    let written = "# mine\n[sampling]\nseed = 3\n";
    sh.write("clip.toml", written);
    let run = format!("{IMAGE} --config clip.toml --out clip.png");
    assert_eq!(sh.answer(&run)["outputs"], json!(["clip.png", "clip.png.toml"]));
    assert_eq!(sh.text("clip.toml"), written);
    sh.answer(format!("{IMAGE} --out clip.webp"));
    assert!(!sh.same("clip.png.toml", "clip.webp.toml"));

    sh.refused(run, ["--out clip.png exists already", "--overwrite"]);
    let both = ["--out clip.png, the configuration clip.png.toml exist already"];
    sh.refused(format!("{IMAGE} --out clip.png"), both);
    sh.write("new.png.toml", "mine");
    sh.refused(format!("{IMAGE} --out new.png"), ["the configuration new.png.toml exists already"]);
    sh.write("t.jsonl", "mine");
    sh.refused(format!("{IMAGE} --out x.png --trace t.jsonl"), ["--trace t.jsonl exists already"]);
    // Nor does a run that fails for another reason.
    sh.write("keep.mp4", "mine");
    sh.refused("run --out keep.mp4 --size 30x30", ["width 30"]);

    let before = sh.bytes("clip.png");
    sh.answer(format!("{IMAGE} --out clip.png --seed 9 --overwrite"));
    assert_ne!(sh.bytes("clip.png"), before);
}

#[test]
fn a_stored_configuration_runs_again_and_stays() {
    let sh = Shell::new();
    sh.answer(format!("{IMAGE} --out a.png --seed 5"));
    let before = sh.files();
    sh.refused("run --config a.png.toml", ["--out a.png exists already"]);
    sh.answer("run --config a.png.toml --overwrite");
    assert!(before == sh.files(), "the same bytes, and the configuration that was read");
    // The configuration of this run differs from the one in the file.
    let same = ["the configuration a.png.toml would be written over --config a.png.toml"];
    sh.refused("run --config a.png.toml --seed 6 --overwrite", same);
}

#[test]
fn two_files_of_one_name_are_refused_before_the_run() {
    let sh = Shell::new();
    fs::copy(fixture("golden/pictures/pillow/rgb.png"), sh.path("s.png")).unwrap();
    for (line, expected) in [
        ("RUN --image s.png --out ./s.png", "--out ./s.png would be written over --image s.png"),
        ("RUN --out t.png --trace t.png", "--trace t.png and --out t.png"),
        ("RUN --out t.png --trace t.png.toml", "--trace t.png.toml and the configuration"),
        ("RUN --out f --trace f/t.jsonl", "--trace f/t.jsonl and --out f"),
        ("RUN --out f --checkpoint f", "--checkpoint f/state.safetensors and --out f"),
        (
            "RUN --out t.png --checkpoint c --trace c/state.safetensors",
            "--checkpoint c/state.safetensors and --trace c/state.safetensors",
        ),
        ("RUN --out ..", "--out .. has no name of its own"),
        ("schedule --plot p.svg --export p.svg", "--export p.svg and --plot"),
        ("calibrate --out p.svg --plot p.svg", "--plot p.svg and --out p.svg"),
        ("compare --out o --plot o/dense.png", "--plot o/dense.png and --out o"),
    ] {
        let line = line.replace("RUN", IMAGE);
        sh.refused(&line, [expected]);
        sh.refused(format!("{line} --overwrite"), [expected]);
    }
}

#[test]
fn no_command_replaces_what_is_there() {
    let sh = Shell::new();
    for name in ["there.svg", "there.toml", "there.json", "rows.safetensors"] {
        sh.write(name, "mine");
    }
    sh.inside("folder").write("report.html", "mine");
    for (line, expected) in [
        ("schedule --plot there.svg", "--plot there.svg exists already"),
        ("schedule --export there.json", "--export there.json exists already"),
        ("calibrate --out there.toml", "--out there.toml exists already"),
        ("calibrate --out rows.toml", "the rows' file rows.safetensors exists already"),
        ("calibrate --plot there.svg", "--plot there.svg exists already"),
        ("pareto --plot there.svg", "--plot there.svg exists already"),
        ("pareto --profile tiny-flux --save there.toml", "--save there.toml exists already"),
        ("compare --plot there.svg", "--plot there.svg exists already"),
        ("compare --out folder", "--out folder exists already"),
        ("demo --out folder", "--out folder exists already"),
        ("profile diff tiny-flux tiny-flux --plot there.svg", "--plot there.svg exists already"),
    ] {
        sh.refused(line, [expected, "hint:", "--overwrite"]);
    }
    sh.answer("schedule --plot there.svg --overwrite");
    assert!(sh.text("there.svg").contains("<svg"));
}

#[test]
fn names_that_nobody_typed_are_numbered() {
    let sh = Shell::new();
    let outputs = |line: &str| sh.answer(line)["outputs"].clone();
    assert_eq!(outputs(IMAGE), json!(["magcache.png", "magcache.png.toml"]));
    assert_eq!(outputs(IMAGE), json!(["magcache-2.png", "magcache-2.png.toml"]));
    sh.write("magcache-3.png.toml", "mine");
    assert_eq!(outputs(IMAGE), json!(["magcache-4.png", "magcache-4.png.toml"]));
    assert_eq!(outputs(&format!("{IMAGE} --overwrite"))[0], "magcache.png");
    sh.inside("magcache-demo");
    let demo = outputs("demo --model tiny-flux --steps 2");
    assert_eq!(list(&demo).last().unwrap(), "magcache-demo-2/report.html");
    assert!(!sh.run("demo --out magcache-demo-2").status.success());
}

#[test]
fn a_configuration_means_the_same_from_every_folder() {
    let sh = Shell::new();
    let sub = sh.inside("sub");
    fs::copy(fixture("golden/pictures/pillow/rgb.png"), sh.path("h.png")).unwrap();
    sh.answer(format!("{IMAGE} --image h.png --out a.png"));
    sh.answer(format!("{IMAGE} --image h.png --out sub/b.png"));
    let image = |config: &str| -> String {
        let table: toml::Table = toml::from_str(&sh.text(config)).unwrap();
        table["sampling"]["image"].as_str().unwrap().to_owned()
    };
    assert_eq!(image("a.png.toml"), "h.png", "beside it: the folder may move");
    assert!(Path::new(&image("sub/b.png.toml")).is_absolute());
    for config in ["../a.png.toml", "b.png.toml"] {
        sub.answer(format!("run --config {config} --out c.png --overwrite"));
        assert!(sh.same("a.png", "sub/c.png"), "{config}");
    }
    // A rerun writes to where the original result was.
    sub.refused("run --config ../a.png.toml", ["--out ../a.png exists already"]);
}

#[cfg(unix)]
#[test]
fn a_name_that_is_not_utf8_is_refused_before_the_run() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let sh = Shell::new();
    for (line, ending) in [
        ("run --out", ".png"),
        ("run --trace", ".jsonl"),
        ("run --checkpoint", ""),
        ("run --image", ".png"),
        ("demo --out", ""),
        ("compare --out", ""),
        ("schedule --plot", ".svg"),
        ("calibrate --out", ".toml"),
        ("pareto --plot", ".svg"),
    ] {
        let name = [b"a\xff", ending.as_bytes()].concat();
        let out = sh.command(line).arg(OsStr::from_bytes(&name)).output().unwrap();
        let message = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{line}: {message}");
        let (_, flag) = line.split_once(' ').unwrap();
        assert!(message.contains("is not UTF-8") && message.contains(flag), "{line}: {message}");
        assert_eq!(sh.count(), 0, "{line}");
    }
}
