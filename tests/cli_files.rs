//! What the program writes, and what it never overwrites.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use program::{answer, magcache, refused};

/// An image run that takes almost no time.
const IMAGE: [&str; 5] = ["run", "--model", "tiny-flux", "--steps", "2"];

fn image<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&IMAGE[..], more].concat()
}

/// Every file below a folder, with its bytes.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(content(&path));
        } else {
            all.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    all
}

/// Asserts that the command is refused with these words and that the folder is unchanged.
#[track_caller]
fn kept(args: &[&str], folder: &Path, expected: &[&str]) {
    let before = content(folder);
    refused(args, folder, expected);
    assert!(before == content(folder), "{args:?} changed a file");
}

#[test]
fn the_configuration_of_a_result_has_its_whole_name_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let written = "# mine\n[sampling]\nseed = 3\n";
    fs::write(d.join("clip.toml"), written).unwrap();
    let run = image(&["--config", "clip.toml", "--out", "clip.png"]);
    assert_eq!(answer(&run, d)["outputs"], serde_json::json!(["clip.png", "clip.png.toml"]));
    assert_eq!(fs::read_to_string(d.join("clip.toml")).unwrap(), written);
    answer(&image(&["--out", "clip.webp"]), d);
    assert_ne!(fs::read(d.join("clip.png.toml")).unwrap(), fs::read(d.join("clip.webp.toml")).unwrap());

    kept(&run, d, &["--out clip.png exists already", "--overwrite"]);
    kept(
        &image(&["--out", "clip.png"]),
        d,
        &["--out clip.png, the configuration clip.png.toml exist already"],
    );
    fs::write(d.join("new.png.toml"), "mine").unwrap();
    kept(&image(&["--out", "new.png"]), d, &["the configuration new.png.toml exists already"]);
    fs::write(d.join("t.jsonl"), "mine").unwrap();
    kept(&image(&["--out", "x.png", "--trace", "t.jsonl"]), d, &["--trace t.jsonl exists already"]);

    let before = fs::read(d.join("clip.png")).unwrap();
    answer(&image(&["--out", "clip.png", "--seed", "9", "--overwrite"]), d);
    assert_ne!(fs::read(d.join("clip.png")).unwrap(), before);
}

#[test]
fn a_stored_configuration_runs_again_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    answer(&image(&["--out", "a.png", "--seed", "5"]), d);
    let before = content(d);
    kept(&["run", "--config", "a.png.toml"], d, &["--out a.png exists already"]);
    answer(&["run", "--config", "a.png.toml", "--overwrite"], d);
    assert!(before == content(d), "the same bytes, and the configuration that was read");
    // The configuration of this run differs from the one in the file.
    let other = ["run", "--config", "a.png.toml", "--seed", "6", "--overwrite"];
    kept(&other, d, &["the configuration a.png.toml would be written over --config a.png.toml"]);
}

#[test]
fn two_files_of_one_name_are_refused_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images/rgb.png");
    fs::copy(photo, d.join("s.png")).unwrap();
    for more in [&[][..], &["--overwrite"]] {
        let refuse = |args: &[&str], expected: &[&str]| kept(&image(&[args, more].concat()), d, expected);
        refuse(
            &["--image", "s.png", "--out", "./s.png"],
            &["--out ./s.png would be written over --image s.png"],
        );
        refuse(&["--out", "t.png", "--trace", "t.png"], &["--trace t.png and --out t.png"]);
        refuse(&["--out", "t.png", "--trace", "t.png.toml"], &["--trace t.png.toml and the configuration"]);
        refuse(&["--out", "f", "--trace", "f/t.jsonl"], &["--trace f/t.jsonl and --out f"]);
        refuse(&["--out", "f", "--checkpoint", "f"], &["--checkpoint f/state.safetensors and --out f"]);
        let state = ["--out", "t.png", "--checkpoint", "c", "--trace", "c/state.safetensors"];
        refuse(&state, &["--checkpoint c/state.safetensors and --trace c/state.safetensors"]);
        refuse(&["--out", ".."], &["--out .. has no name of its own"]);
        kept(
            &[&["schedule", "--plot", "p.svg", "--export", "p.svg"], more].concat(),
            d,
            &["--export p.svg and --plot"],
        );
        let calibrate = ["calibrate", "--out", "p.svg", "--plot", "p.svg"];
        kept(&[&calibrate[..], more].concat(), d, &["--plot p.svg and --out p.svg"]);
        let compare = ["compare", "--out", "o", "--plot", "o/dense.png"];
        kept(&[&compare[..], more].concat(), d, &["--plot o/dense.png and --out o"]);
    }
}

#[test]
fn no_command_replaces_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for name in ["there.svg", "there.toml", "there.json", "rows.safetensors"] {
        fs::write(d.join(name), "mine").unwrap();
    }
    fs::create_dir(d.join("folder")).unwrap();
    fs::write(d.join("folder/report.html"), "mine").unwrap();
    for (args, expected) in [
        (&["schedule", "--plot", "there.svg"][..], "--plot there.svg exists already"),
        (&["schedule", "--export", "there.json"], "--export there.json exists already"),
        (&["calibrate", "--out", "there.toml"], "--out there.toml exists already"),
        (&["calibrate", "--out", "rows.toml"], "the rows' file rows.safetensors exists already"),
        (&["calibrate", "--plot", "there.svg"], "--plot there.svg exists already"),
        (&["pareto", "--plot", "there.svg"], "--plot there.svg exists already"),
        (&["pareto", "--profile", "tiny-flux", "--save", "there.toml"], "--save there.toml exists already"),
        (&["compare", "--plot", "there.svg"], "--plot there.svg exists already"),
        (&["compare", "--out", "folder"], "--out folder exists already"),
        (&["demo", "--out", "folder"], "--out folder exists already"),
        (
            &["profile", "diff", "tiny-flux", "tiny-flux", "--plot", "there.svg"],
            "--plot there.svg exists already",
        ),
    ] {
        kept(args, d, &[expected, "hint:", "--overwrite"]);
    }
    answer(&["schedule", "--plot", "there.svg", "--overwrite"], d);
    assert!(fs::read_to_string(d.join("there.svg")).unwrap().contains("<svg"));
}

#[test]
fn names_that_nobody_typed_are_numbered() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let outputs = |args: &[&str]| answer(args, d)["outputs"].clone();
    assert_eq!(outputs(&IMAGE), serde_json::json!(["magcache.png", "magcache.png.toml"]));
    assert_eq!(outputs(&IMAGE), serde_json::json!(["magcache-2.png", "magcache-2.png.toml"]));
    fs::write(d.join("magcache-3.png.toml"), "mine").unwrap();
    assert_eq!(outputs(&IMAGE), serde_json::json!(["magcache-4.png", "magcache-4.png.toml"]));
    assert_eq!(outputs(&image(&["--overwrite"]))[0], "magcache.png");
    fs::create_dir(d.join("magcache-demo")).unwrap();
    let demo = ["demo", "--model", "tiny-flux", "--steps", "2"];
    let html = |answer: &serde_json::Value| answer.as_array().unwrap().last().unwrap().clone();
    assert_eq!(html(&outputs(&demo)), "magcache-demo-2/report.html");
    assert!(!magcache(&["demo", "--out", "magcache-demo-2"], d).status.success());
}

#[test]
fn a_configuration_means_the_same_from_every_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (d, sub) = (dir.path(), dir.path().join("sub"));
    fs::create_dir(&sub).unwrap();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images/rgb.png");
    fs::copy(photo, d.join("h.png")).unwrap();
    answer(&image(&["--image", "h.png", "--out", "a.png"]), d);
    answer(&image(&["--image", "h.png", "--out", "sub/b.png"]), d);
    let said = |config: &str| -> toml::Table {
        let table: toml::Table = toml::from_str(&fs::read_to_string(d.join(config)).unwrap()).unwrap();
        table["sampling"].as_table().unwrap().clone()
    };
    assert_eq!(said("a.png.toml")["image"].as_str(), Some("h.png"), "beside it: the folder may move");
    assert!(Path::new(said("sub/b.png.toml")["image"].as_str().unwrap()).is_absolute());
    for config in ["../a.png.toml", "b.png.toml"] {
        answer(&["run", "--config", config, "--out", "c.png", "--overwrite"], &sub);
        assert!(fs::read(d.join("a.png")).unwrap() == fs::read(sub.join("c.png")).unwrap(), "{config}");
    }
    // A rerun writes to where the original result was.
    kept(&["run", "--config", "../a.png.toml"], &sub, &["--out ../a.png exists already"]);
}

#[test]
fn a_demo_from_an_image_has_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let demo = ["demo", "--model", "wan2.2-i2v-tiny", "--steps", "3", "--out", "demo"];
    let outputs = answer(&demo, d)["outputs"].clone();
    assert!(outputs.as_array().unwrap().contains(&"demo/image.png".into()), "{outputs}");
    let config: toml::Table =
        toml::from_str(&fs::read_to_string(d.join("demo/dense.mp4.toml")).unwrap()).unwrap();
    assert_eq!(config["sampling"]["image"].as_str(), Some("image.png"));
    answer(&["run", "--config", "demo/dense.mp4.toml", "--out", "again.mp4"], d);
    assert!(fs::read(d.join("demo/dense.mp4")).unwrap() == fs::read(d.join("again.mp4")).unwrap());
}

#[cfg(unix)]
#[test]
fn a_name_that_is_not_utf8_is_refused_before_the_run() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::Command};
    let dir = tempfile::tempdir().unwrap();
    let name = |ending: &str| OsStr::from_bytes(&[b"a\xff", ending.as_bytes()].concat()).to_owned();
    let cases = [
        ("run", "--out", name(".png")),
        ("run", "--trace", name(".jsonl")),
        ("run", "--checkpoint", name("")),
        ("run", "--image", name(".png")),
        ("demo", "--out", name("")),
        ("compare", "--out", name("")),
        ("schedule", "--plot", name(".svg")),
        ("calibrate", "--out", name(".toml")),
        ("pareto", "--plot", name(".svg")),
    ];
    for (command, flag, name) in cases {
        let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
        let out = run.arg(command).arg(flag).arg(name).current_dir(dir.path()).output().unwrap();
        let message = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{command} {flag}: {message}");
        assert!(message.contains("is not UTF-8") && message.contains(flag), "{command} {flag}: {message}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{command} {flag}");
    }
}
