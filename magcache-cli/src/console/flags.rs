//! Rewrites keys of a configuration as the flags that set them: libraries name keys, but the user typed
//! flags.

use clap::CommandFactory;

use crate::args::Args;

/// The value of a key in a hint that means the key itself, whatever its value.
const ANY: &str = "N";

/// Rewrites the keys in a hint as flags: `` `flow_shift = 3` `` becomes `--flow-shift 3`, and `` `guidance = N` ``
/// becomes `--guidance`. Keys without a flag stay as they are.
pub(super) fn flags(hint: &str) -> String {
    let mut text = String::new();
    // Every second part is between backticks.
    for (place, part) in hint.split('`').enumerate() {
        let quoted = place % 2 == 1;
        let setting = part.split_once(" = ").filter(|_| quoted);
        match setting.and_then(|(key, value)| Some((flag(key)?, value))) {
            Some((flag, ANY)) => text += &format!("--{flag}"),
            Some((flag, value)) => text += &format!("--{flag} {}", value.trim_matches('"')),
            None if quoted => text += &format!("`{part}`"),
            None => text += part,
        }
    }
    text
}

/// The flag of a key: it has the same name, except for the table `[audit]`.
fn flag(key: &str) -> Option<String> {
    let name = if key == "fraction" { "audit".to_owned() } else { key.replace('_', "-") };
    let commands = Args::command();
    let mut known = commands.get_subcommands().flat_map(clap::Command::get_arguments);
    known.any(|argument| argument.get_long() == Some(&name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_set_are_flags() {
        let hint = "`sampler = \"euler\"`, or a static shift: `flow_shift = 3`";
        assert_eq!(flags(hint), "--sampler euler, or a static shift: --flow-shift 3");
        assert_eq!(flags("`fraction = 0.1`"), "--audit 0.1");
        let named = "`guidance = N` is its scale of classifier-free guidance";
        assert_eq!(flags(named), "--guidance is its scale of classifier-free guidance");
        for same in ["did you mean `steps`?", "remove `at`", "`warmup = 3` at least", "a b"] {
            assert_eq!(flags(same), same);
        }
    }
}
