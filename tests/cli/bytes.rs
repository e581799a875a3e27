//! What `schedule` predicts is what `run` does: its skips, its ceiling and its bytes.

use crate::program::Shell;

const VIDEO: &str = "--model wan2.1-t2v-tiny --steps 6 --size 64x48 --frames 5";
const IMAGE: &str = "--model tiny-flux --steps 6 --size 48x32";

/// `[[cache]]` tables of several strategies.
const TABLES: [&str; 12] = [
    "strategy = 'schedule'\nskip = [2, 4]",
    "strategy = 'schedule'\nskip = [2, 4]\nforecast = { type = 'taylor', order = 2 }",
    "strategy = 'schedule'\nskip = [2, 4]\nat = '1..3'",
    "strategy = 'schedule'\nskip = [2, 4]\nat = 'forward'",
    "strategy = 'schedule'\nskip = [2, 4]\nat = 'MODULE'",
    "strategy = 'magcache'\nthreshold = 0.3\nmax_skips = 4\nwarmup = 1",
    "strategy = 'magcache'\nthreshold = 0.3\nlast_steps = 2\ndialect = 'diffusers'",
    "strategy = 'teacache'\ncoefficients = [1.0, 0.0]",
    "strategy = 'fbcache'\ndownsample = 3",
    "strategy = 'dbcache'\nfront = 1\nback = 1",
    "strategy = 'easycache'",
    "strategy = 'cfg-cache'",
];

#[test]
fn the_bytes_of_a_schedule_are_those_of_the_run() {
    let sh = Shell::new();
    for (model, module, out) in [(VIDEO, "attn1", "o.mp4"), (IMAGE, "attn", "o.png")] {
        let guided = model == VIDEO;
        for table in TABLES.iter().filter(|table| guided || !table.contains("cfg-cache")) {
            for residuals in ["", "dtype = 'bf16'", "budget = '20 KiB'"] {
                let table = table.replace("MODULE", module);
                let text = format!("[residuals]\n{residuals}\n[[cache]]\n{table}\n");
                sh.write("c.toml", &text);
                let said = sh.answer(format!("schedule --config c.toml {model}"));
                let held = sh.answer(format!("run --config c.toml {model} --out {out} --overwrite"));
                let (said_bytes, held_bytes) = (&said["cache_bytes"], &held["cache_bytes"]);
                if said["skipped"].is_null() {
                    let within = held_bytes.as_u64() <= said_bytes.as_u64();
                    assert!(within, "{held_bytes} of {said_bytes}: {text}");
                } else {
                    let [ceiling, done] = [&said, &held].map(|answer| answer["ceiling"].as_f64());
                    assert_eq!(ceiling, done, "{text}");
                    let skips = residuals.is_empty() && table.contains("magcache");
                    assert!(!skips || ceiling > Some(1.0), "{text} skips nothing");
                    assert_eq!((said_bytes, &said["skipped"]), (held_bytes, &held["skipped"]), "{text}");
                }
            }
        }
    }
}
