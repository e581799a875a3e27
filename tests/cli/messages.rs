//! What the program tells people and scripts: errors, hints, help and notes.

use std::{io::Write, process::Stdio};

use serde_json::{Value, json};

use crate::program::{BACKTRACE, Shell, copy, list, tiny};

#[test]
fn every_refusal_has_one_style_and_its_hint_is_apart() {
    let sh = Shell::new();
    let wan = |name: &str, file: &str, edit: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        copy(&tiny("wan2.1-t2v-tiny"), &sh.path(name));
        let file = format!("{name}/{file}");
        sh.write(&file, edit(sh.bytes(&file)));
    };
    let text = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(from, to).into_bytes()
    };
    let config = "transformer/config.json";
    wan("class", config, &text("WanTransformer3DModel", "FluxTransformer2DModel"));
    wan("key", config, &text("\"eps\"", "\"epsilon\""));
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    wan("cut", "vae/diffusion_pytorch_model.gguf", &half);
    wan("solver", "scheduler/scheduler_config.json", &text("UniPCMultistepScheduler", "DDIMScheduler"));
    sh.write("text.png", "hello, world");
    sh.inside("empty");
    for (line, error, hint) in [
        ("run --promt x", "unexpected argument '--promt' found", "'--prompt'"),
        ("run --on-drift x", "invalid value 'x' for '--on-drift <ON_DRIFT>'", "magcache run --help"),
        ("verify", "were not provided: <CASE>...", "magcache verify --help"),
        ("", "requires a subcommand but one was not provided", "magcache --help"),
        ("run --cache magcash", "unknown strategy \"magcash\"", "did you mean \"magcache\"?"),
        // Errors from the libraries.
        ("run --out a.avi", "cannot write files that end in .avi", "name a .mp4 or .gif file"),
        ("run --size 70x64", "multiple of 16", "the nearest is 64"),
        ("run --model empty", "", "looked for"),
        ("run --model class", "", "this is a FLUX.1 model"),
        ("run --model key", "", "diffusers 0.42.1"),
        ("run --model cut", "", "download it again"),
        ("run --model solver", "", "use one of UniPCMultistepScheduler"),
        ("run --model tiny-flux --image text.png", "", "give a PNG"),
        ("run --flow-shift 1e9 --steps 3", "", "--flow-shift 1"),
        ("run --model tiny-flux --frames 5", "", "--frames 1"),
        ("run --cache magcache --on-drift tighten", "", "--drift-budget 0.5"),
    ] {
        let out = sh.run(format!("{line} --json"));
        assert_eq!((out.status.code(), out.stderr.as_slice()), (Some(2), &b""[..]), "{line}");
        let said: Value = serde_json::from_slice(&out.stdout).unwrap();
        let [told, advice] = ["error", "hint"].map(|key| said[key].as_str().unwrap_or_default());
        assert!(told.contains(error) && !told.contains("hint:"), "{line}: {said}");
        assert!(!String::from_utf8_lossy(&out.stdout).contains(BACKTRACE), "{line}: {said}");
        assert!(advice.contains(hint) && !advice.contains('\n'), "{line}: {said}");
        assert!(said["causes"].is_array(), "{said}");
        if !line.is_empty() {
            let plain = String::from_utf8(sh.run(line).stderr).unwrap();
            assert!(plain.starts_with(&format!("error: {told}\n")), "{plain}");
            assert!(plain.ends_with(&format!("hint: {advice}\n")), "{plain}");
        }
    }
}

#[test]
fn a_value_of_set_is_a_value() {
    let sh = Shell::new();
    let run = "run --dry-run --cache magcache --set";
    for (set, key, value) in [
        ("'threshold= 0.3 '", "threshold", json!(0.3)),
        ("dialect=diffusers", "dialect", json!("diffusers")),
        ("'dialect=\"diffusers\"'", "dialect", json!("diffusers")),
    ] {
        assert_eq!(sh.answer(format!("{run} {set}"))["config"]["cache"][0][key], value, "{set}");
    }
    sh.refused(format!("{run} 'threshold=0.3\nwarmup = 0.5'"), ["threshold"]);
    assert_eq!(sh.count(), 0);
}

#[test]
fn every_command_knows_the_same_models() {
    let sh = Shell::new();
    assert_eq!(sh.answer("inspect tiny-flux")["model"], "tiny-flux");
    assert_eq!(sh.answer("schedule --model tiny-flux --steps 9")["steps"], 9);
    // A known model without its weights: a schedule does not need them.
    let [by_name, by_profile] =
        ["model", "profile"].map(|by| sh.answer(format!("schedule --{by} wan2.2-t2v-a14b --steps 40")));
    assert_eq!(by_name["skipped"], by_profile["skipped"]);
    for command in ["inspect", "run --model", "bench forward --model", "demo --model"] {
        let bare = ["\"wan2.2-t2v-a14b\" has no weights in this program", "hint: give the folder"];
        sh.refused(format!("{command} wan2.2-t2v-a14b"), bare);
        let near = ["tiny-fluxx is neither a folder nor a model", "did you mean \"tiny-flux\"?"];
        sh.refused(format!("{command} tiny-fluxx"), near);
        sh.refused(format!("{command} zzz"), ["zzz is neither", "magcache list"]);
    }
    sh.refused("schedule --model wan2.2-t2v-a14", ["did you mean"]);
}

#[test]
fn a_flag_about_a_cache_is_not_ignored_where_there_is_none() {
    let sh = Shell::new();
    let run = |more: &str| format!("run --model tiny-flux --dry-run {more}");
    let given = ["--profile is given and the run has no cache"];
    sh.refused(run("--profile wan2.1-t2v-1.3b"), given);
    sh.refused(run("--audit 0.5"), ["--audit is given and the run has no cache", "hint: --cache"]);
    sh.write("run.toml", "[[cache]]\nstrategy = 'fbcache'\n");
    sh.write("plan.toml", "[target]\nbudget = 12\n");
    let caches = |more: &str| sh.answer(run(more))["config"]["cache"].as_array().map_or(0, Vec::len);
    assert_eq!(caches("--config run.toml"), 1);
    assert_eq!(caches("--config run.toml --cache none"), 0);
    assert_eq!(caches("--config plan.toml --cache none"), 0);
    sh.refused(run("--cache none --budget 12"), ["--cache none"]);
    sh.refused(run("--cache none --set threshold=1"), ["--cache none"]);

    let told = |line: &str| sh.said(line)[1].clone();
    assert!(told("schedule").contains("note: no cache is given: this is what --cache magcache does"));
    assert!(!told("schedule --cache magcache").contains("no cache is given"));
    let dense = sh.answer("schedule --cache none");
    assert_eq!((&dense["strategy"], &dense["ceiling"]), (&"no cache".into(), &1.0.into()));
}

#[test]
fn the_words_of_the_embedded_models_are_shown_and_others_are_told() {
    let sh = Shell::new();
    for line in ["list", "demo --help", "run --help"] {
        assert!(sh.said(line)[0].contains("COLOUR: red, yellow"), "{line}");
    }
    let models = sh.answer("list")["models"].clone();
    let prompts = |name: &str| &list(&models).iter().find(|model| model["name"] == name).unwrap()["prompts"];
    assert!(prompts("tiny-flux").is_string() && prompts("wan2.1-t2v").is_null());
    for model in ["tiny-flux", "wan2.1-t2v-tiny"] {
        let told = |prompt: &str| {
            let run = format!("run --model {model} --steps 1 --frames 1 --out a.png --overwrite");
            sh.said(format!("{run} --prompt '{prompt}'"))[1].clone()
        };
        let words = told("a red cat and a cat walks");
        assert!(words.contains("does not know these words of the prompt: \"cat\", \"walks\""), "{words}");
        assert!(!told("a red circle").contains("does not know"));
    }
}

#[test]
fn help_is_in_parts_and_quiet_is_quiet() {
    let sh = Shell::new();
    let shown = |line: &str| sh.said(line)[0].clone();
    let help = shown("run --help");
    for heading in
        ["Model:", "Sampling:", "Given images:", "Cache:", "Audit of the cache:", "Machine:", "Output:"]
    {
        assert!(help.contains(&format!("\n{heading}\n")), "no {heading} in {help}");
    }
    for line in ["list -q", "run -q --model tiny-flux --steps 1"] {
        assert_eq!(sh.said(line), ["", ""], "{line}");
    }
    assert!(sh.answer("list -q")["models"].is_array());
    assert!(!sh.run("run -q --steps 0").stderr.is_empty());
    let version = shown("--version");
    assert!(version.contains("0.1.0 (") && version.contains("computes on CPU"), "{version}");
    assert_eq!(shown("-V").trim(), "magcache 0.1.0");
}

#[test]
fn shells_and_man_read_the_same_description() {
    let sh = Shell::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let [script, _] = sh.said(format!("completions {shell}"));
        assert!(script.contains("checkpoint-every") && script.contains("pareto"), "{shell}");
    }
    assert!(sh.said("man")[0].contains(".TH magcache"));
    assert!(sh.said("man run")[0].contains("checkpoint"));
    sh.refused("man rum", ["unknown command \"rum\"", "did you mean \"run\"?"]);
    sh.refused("completions tcl", ["bash"]);
}

#[test]
fn a_prompt_comes_from_standard_input_too() {
    let sh = Shell::new();
    let mut run = sh.command("run --prompt - --fps 4 --dry-run --json");
    let mut run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"a blue square\n").unwrap();
    let said: Value = serde_json::from_slice(&run.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(said["config"]["sampling"]["prompt"], "a blue square");
    assert_eq!(said["config"]["output"]["fps"], 4.0);
}
