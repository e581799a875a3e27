//! `run` with several prompts and seeds, its progress output, and how it ends when it is stopped.

#[allow(dead_code, reason = "every test target uses its own part")]
#[path = "support/program.rs"]
mod program;

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use program::{answer, magcache, refused};

const TINY: [&str; 7] = ["run", "--model", "tiny-flux", "--steps", "3", "--cache", "magcache"];

#[test]
fn every_prompt_with_every_seed_has_a_result_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("prompts.txt"), "# two of them\na red circle\n\n a blue square \n").unwrap();
    let several = ["--prompts", "prompts.txt", "--seeds", "3,4", "--out", "x.png", "--trace", "x.jsonl"];
    let said = answer(&[&TINY[..], &several].concat(), d);
    let runs = said["runs"].as_array().unwrap();
    let scene = |i: usize| {
        let sampling = &runs[i]["config"]["sampling"];
        (sampling["prompt"].as_str().unwrap(), sampling["seed"].as_u64().unwrap())
    };
    let scenes: Vec<_> = (0..runs.len()).map(scene).collect();
    assert_eq!(
        scenes,
        [("a red circle", 3), ("a red circle", 4), ("a blue square", 3), ("a blue square", 4)]
    );
    for (i, (prompt, seed)) in scenes.iter().enumerate() {
        let name = |ending: &str| format!("x-{}.{ending}", i + 1);
        assert_eq!(runs[i]["outputs"], serde_json::json!([name("png"), name("png.toml"), name("jsonl")]));
        // Each result is that of a single run, and its configuration reproduces it.
        let seed = seed.to_string();
        let alone = [&TINY[..], &["--prompt", prompt, "--seed", &seed, "--out", "alone.png", "--overwrite"]];
        answer(&alone.concat(), d);
        let again = ["run", "--config", &name("png.toml"), "--out", "again.png", "--overwrite"];
        answer(&again, d);
        let bytes = |name: &str| fs::read(d.join(name)).unwrap();
        assert!(bytes(&name("png")) == bytes("alone.png"), "{prompt}, {seed}");
        assert!(bytes(&name("png")) == bytes("again.png"), "{prompt}, {seed}");
    }
    let files = fs::read_dir(d).unwrap().count();
    let again = [&TINY[..], &several].concat();
    refused(&again, d, &["x-1.png", "exist already", "--overwrite"]);
    let state = [&TINY[..], &["--seeds", "1,2", "--checkpoint", "state"]].concat();
    refused(&state, d, &["--checkpoint keeps the state of one run, and 2 are asked for"]);
    fs::write(d.join("empty.txt"), "# none\n").unwrap();
    refused(&[&TINY[..], &["--prompts", "empty.txt"]].concat(), d, &["empty.txt has no prompts"]);
    assert_eq!(fs::read_dir(d).unwrap().count(), files + 1);
}

#[test]
fn who_asks_is_told_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let told = |more: &[&str]| {
        let out = magcache(&[&TINY[..], &["--overwrite", "--out", "x.png"], more].concat(), dir.path());
        assert!(out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    let none = told(&[]);
    assert!(!none.contains("denoised") && !none.contains("hook="), "{none}");
    let some = told(&["-v"]);
    assert!(some.contains("denoised step=2 seconds=") && !some.contains("hook="), "{some}");
    let all = told(&["-vv"]);
    assert!(all.contains("step=0 branch=\"cond\" hook=0 blocks=0.."), "{all}");
    assert!(all.contains("why=\"warmup\""), "{all}");
    assert!(!all.contains('\u{1b}'), "no colours in a file");
    let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
    let out = run.args(["list", "-q"]).env("RUST_LOG", "magcache_cli=loud").output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "quiet is quiet");
    let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
    let out = run.arg("list").env("RUST_LOG", "magcache_cli=loud").output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("RUST_LOG is \"magcache_cli=loud\""));
}

#[test]
fn ctrl_c_stops_within_a_step_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_magcache"))
        .args(["run", "--steps", "900", "--out", "long.mp4", "--trace", "long.jsonl", "--quiet"])
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none(), "900 steps took no time");
    let asked = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(20));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn a_signal_is_told_by_the_exit_code() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130), ("-HUP", 129)] {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let mut run = Command::new(env!("CARGO_BIN_EXE_magcache"));
        let args = ["run", "--steps", "900", "--checkpoint", "state", "-q"];
        let mut run = run.args(args).current_dir(d).spawn().unwrap();
        // Signal handlers are installed before the first state is stored.
        while !d.join("state/state.safetensors").exists() {
            assert!(run.try_wait().unwrap().is_none(), "the run ended before it was stopped");
            thread::sleep(Duration::from_millis(5));
        }
        let kill = Command::new("kill").args([signal, &run.id().to_string()]).status().unwrap();
        assert!(kill.success());
        assert_eq!(run.wait().unwrap().code(), Some(code), "{signal}");
    }
}
