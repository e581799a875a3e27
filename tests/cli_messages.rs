//! What the program tells people and scripts when it cannot do what they want.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{fs, path::Path};

use program::{answer, copy, magcache, refused, tiny};
use serde_json::Value;

/// The JSON document of a refused command.
#[track_caller]
fn document(args: &[&str], folder: &Path) -> Value {
    let out = magcache(&[args, &["--json"]].concat(), folder);
    assert_eq!(out.status.code(), Some(2), "{args:?}");
    assert!(out.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn every_refusal_has_one_style() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (args, error, hint) in [
        (&["run", "--promt", "x"][..], "unexpected argument '--promt' found", "'--prompt'"),
        (&["run", "--on-drift", "x"], "invalid value 'x' for '--on-drift <ON_DRIFT>'", "magcache run --help"),
        (&["verify"], "were not provided: <CASE>...", "magcache verify --help"),
        (&[], "requires a subcommand but one was not provided", "magcache --help"),
        (&["run", "--cache", "magcash"], "unknown strategy \"magcash\"", "did you mean \"magcache\"?"),
        // Errors from the libraries.
        (&["run", "--out", "a.avi"], "cannot write files that end in .avi", "name a .mp4 or .gif file"),
        (&["run", "--size", "70x64"], "multiple of 8", "the nearest is 72"),
    ] {
        let said = document(args, d);
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        assert!(text("error").contains(error) && !text("error").contains("hint:"), "{args:?}: {said}");
        assert!(text("hint").contains(hint) && !text("hint").contains('\n'), "{args:?}: {said}");
        assert!(said["causes"].is_array(), "{said}");
        if args.is_empty() {
            continue;
        }
        let out = magcache(args, d);
        let plain = String::from_utf8(out.stderr).unwrap();
        assert!(plain.starts_with(&format!("error: {}\n", text("error"))), "{plain}");
        assert!(plain.ends_with(&format!("hint: {}\n", text("hint"))), "{plain}");
    }
}

#[test]
fn what_a_library_says_to_do_is_the_hint_of_the_document() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let edited = |model: &str, file: &str, edit: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let to = d.join(fs::read_dir(d).unwrap().count().to_string());
        copy(&tiny(model), &to);
        fs::write(to.join(file), edit(fs::read(to.join(file)).unwrap())).unwrap();
        to.to_str().unwrap().to_owned()
    };
    let text = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(from, to).into_bytes()
    };
    let wan = "wan2.1-t2v-tiny";
    let class =
        edited(wan, "transformer/config.json", &text("WanTransformer3DModel", "FluxTransformer2DModel"));
    let key = edited(wan, "transformer/config.json", &text("\"eps\"", "\"epsilon\""));
    let cut = edited(wan, "transformer/diffusion_pytorch_model.safetensors", &|bytes| {
        bytes[..bytes.len() / 2].to_vec()
    });
    let solver =
        edited(wan, "scheduler/scheduler_config.json", &text("UniPCMultistepScheduler", "DDIMScheduler"));
    fs::write(d.join("text.png"), "hello, world").unwrap();
    fs::create_dir(d.join("empty")).unwrap();
    let run = |more: &[&str]| document(&[&["run", "--steps", "3"][..], more].concat(), d);
    for (said, hint) in [
        (run(&["--model", "empty"]), "looked for"),
        (run(&["--model", &class]), "this is a FLUX.1 model"),
        (run(&["--model", &key]), "diffusers 0.42.1"),
        (run(&["--model", &cut]), "download it again"),
        (run(&["--model", &solver]), "use one of UniPCMultistepScheduler"),
        (run(&["--model", "tiny-flux", "--image", "text.png"]), "give a PNG"),
        (run(&["--flow-shift", "1e9"]), "--flow-shift 1"),
        (run(&["--model", "tiny-flux", "--frames", "5"]), "--frames 1"),
        (run(&["--cache", "magcache", "--on-drift", "tighten"]), "--drift-budget 0.5"),
        (run(&["--out", "a.avi"]), "name a .mp4"),
    ] {
        assert!(said["hint"].as_str().is_some_and(|text| text.contains(hint)), "{hint}: {said}");
        assert!(!said["error"].as_str().unwrap().contains("hint:"), "{said}");
    }
}

#[test]
fn a_value_of_set_is_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let run = |set: &str| answer(&["run", "--dry-run", "--cache", "magcache", "--set", set], d);
    assert_eq!(run("threshold= 0.3 ")["config"]["cache"][0]["threshold"], 0.3);
    assert_eq!(run("dialect=diffusers")["config"]["cache"][0]["dialect"], "diffusers");
    assert_eq!(run("dialect=\"diffusers\"")["config"]["cache"][0]["dialect"], "diffusers");
    let two = "threshold=0.3\nwarmup = 0.5";
    refused(&["run", "--dry-run", "--cache", "magcache", "--set", two], d, &["threshold"]);
    assert_eq!(fs::read_dir(d).unwrap().count(), 0);
}

#[test]
fn every_command_knows_the_same_models() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let found = answer(&["inspect", "tiny-flux"], d);
    assert_eq!(found["model"], "tiny-flux", "{found}");
    let planned = answer(&["schedule", "--model", "tiny-flux", "--steps", "9"], d);
    assert_eq!(planned["steps"], 9);
    // A known model without its weights: a schedule does not need them.
    let by_name = answer(&["schedule", "--model", "wan2.2-t2v-a14b", "--steps", "40"], d);
    let by_profile = answer(&["schedule", "--profile", "wan2.2-t2v-a14b", "--steps", "40"], d);
    assert_eq!(by_name["skipped"], by_profile["skipped"]);
    for command in
        [&["inspect"][..], &["run", "--model"], &["bench", "forward", "--model"], &["demo", "--model"]]
    {
        let of = |name: &'static str, expected: &[&str]| refused(&[command, &[name]].concat(), d, expected);
        of(
            "wan2.2-t2v-a14b",
            &["\"wan2.2-t2v-a14b\" has no weights in this program", "hint: give the folder"],
        );
        of("tiny-fluxx", &["tiny-fluxx is neither a folder nor a model", "did you mean \"tiny-flux\"?"]);
        of("zzz", &["zzz is neither", "magcache list"]);
    }
    refused(&["schedule", "--model", "wan2.2-t2v-a14"], d, &["did you mean"]);
}

#[test]
fn a_flag_about_a_cache_is_not_ignored_where_there_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let flux = ["run", "--model", "tiny-flux", "--dry-run"];
    let run = |more: &[&'static str]| [&flux[..], more].concat();
    refused(&run(&["--profile", "wan2.1-t2v-1.3b"]), d, &["--profile is given and the run has no cache"]);
    refused(&run(&["--audit", "0.5"]), d, &["--audit is given and the run has no cache", "hint: --cache"]);
    fs::write(d.join("run.toml"), "[[cache]]\nstrategy = \"fbcache\"\n").unwrap();
    let caches = |args: &[&str]| answer(args, d)["config"]["cache"].as_array().map_or(0, Vec::len);
    assert_eq!(caches(&run(&["--config", "run.toml"])), 1);
    assert_eq!(caches(&run(&["--config", "run.toml", "--cache", "none"])), 0);
    fs::write(d.join("plan.toml"), "[target]\nbudget = 12\n").unwrap();
    assert_eq!(caches(&run(&["--config", "plan.toml", "--cache", "none"])), 0);
    refused(&run(&["--cache", "none", "--budget", "12"]), d, &["--cache none"]);
    refused(&run(&["--cache", "none", "--set", "threshold=1"]), d, &["--cache none"]);

    let said = |args: &[&str]| String::from_utf8(magcache(args, d).stderr).unwrap();
    assert!(said(&["schedule"]).contains("note: no cache is given: this is what --cache magcache does"));
    assert!(!said(&["schedule", "--cache", "magcache"]).contains("no cache is given"));
    let dense = answer(&["schedule", "--cache", "none"], d);
    assert_eq!((&dense["strategy"], &dense["ceiling"]), (&"no cache".into(), &1.0.into()));
}

#[test]
fn the_words_of_the_embedded_models_are_shown_and_others_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let shown = |args: &[&str]| String::from_utf8(magcache(args, d).stdout).unwrap();
    for args in [&["list"][..], &["demo", "--help"], &["run", "--help"]] {
        assert!(shown(args).contains("COLOUR: red, green"), "{args:?}");
    }
    let models = answer(&["list"], d)["models"].clone();
    let prompts = |name: &str| {
        let model = models.as_array().unwrap().iter().find(|model| model["name"] == name).unwrap();
        model["prompts"].clone()
    };
    assert!(prompts("tiny-flux").is_string() && prompts("wan2.1-t2v").is_null());
    for model in ["tiny-flux", "wan2.1-t2v-tiny"] {
        let told = |prompt: &str| {
            let args = ["run", "--model", model, "--steps", "1", "--prompt", prompt, "--frames", "1"];
            let out = magcache(&[&args[..], &["--out", "a.png", "--overwrite"]].concat(), d);
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stderr).unwrap()
        };
        let words = told("a red cat and a cat walks");
        assert!(words.contains("does not know these words of the prompt: \"cat\", \"walks\""), "{words}");
        assert!(!told("a red circle").contains("does not know"));
    }
}

#[test]
fn help_is_in_parts_and_quiet_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let shown = |args: &[&str]| String::from_utf8(magcache(args, d).stdout).unwrap();
    let help = shown(&["run", "--help"]);
    for heading in
        ["Model:", "Sampling:", "Given images:", "Cache:", "Audit of the cache:", "Machine:", "Output:"]
    {
        assert!(help.contains(&format!("\n{heading}\n")), "no {heading} in {help}");
    }
    for args in [&["list", "-q"][..], &["run", "-q", "--model", "tiny-flux", "--steps", "1"]] {
        let out = magcache(args, d);
        assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{args:?}: {out:?}");
    }
    assert!(answer(&["list", "-q"], d)["models"].is_array());
    assert!(!magcache(&["run", "-q", "--steps", "0"], d).stderr.is_empty());
    let version = shown(&["--version"]);
    assert!(version.contains("0.1.0 (") && version.contains("computes on CPU"), "{version}");
    assert_eq!(shown(&["-V"]).trim(), "magcache 0.1.0");
}

#[test]
fn shells_and_man_read_the_same_description() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let shown = |args: &[&str]| String::from_utf8(magcache(args, d).stdout).unwrap();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = shown(&["completions", shell]);
        assert!(script.contains("checkpoint-every") && script.contains("pareto"), "{shell}");
    }
    assert!(shown(&["man"]).contains(".TH magcache") && shown(&["man", "run"]).contains("checkpoint"));
    refused(&["man", "rum"], d, &["unknown command \"rum\"", "did you mean \"run\"?"]);
    refused(&["completions", "tcl"], d, &["bash"]);
}

#[test]
fn a_prompt_comes_from_standard_input_too() {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
    run.args(["run", "--prompt", "-", "--fps", "4", "--dry-run", "--json"]).current_dir(d);
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"a blue square\n").unwrap();
    let said: Value = serde_json::from_slice(&run.wait_with_output().unwrap().stdout).unwrap();
    let config = &said["config"];
    assert_eq!(
        (&config["sampling"]["prompt"], &config["output"]["fps"]),
        (&"a blue square".into(), &4.0.into())
    );
    refused(&["run", "--fps", "0"], d, &["`fps` is 0"]);
}
