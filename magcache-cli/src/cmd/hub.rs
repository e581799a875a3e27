//! `pull` and `rm`: models of the hub in its cache on this machine.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::Result;
use magcache_hub::{Fetched, Hub, Name, downloaded, remove};
use serde_json::json;

use crate::{
    args::{Pull, Remove},
    console::{Console, bad_input, bad_input_with},
    job::model_name,
    summary,
};

pub(crate) fn pull(args: &Pull, out: &Console) -> Result<()> {
    let name = parsed(&args.name)?;
    let places = match model_name::pull(&name, out)? {
        Fetched::Folder(path) => vec![path],
        Fetched::Files(paths) => paths,
    };
    let text: String = places.iter().map(|path| format!("{}\n", path.display())).collect();
    out.answer(&text, &json!({ "name": name.to_string(), "paths": places }));
    Ok(())
}

pub(crate) fn rm(args: &Remove, out: &Console) -> Result<()> {
    let (name, hub) = (parsed(&args.name)?, Hub::from_env());
    let Some(found) = downloaded(hub.cache()).into_iter().find(|one| one.repo == name.repo) else {
        let message = format!("{} is not in {}", name.repo, hub.cache().display());
        return Err(bad_input_with(message, "magcache list --downloaded"));
    };
    if !args.yes {
        if !io::stdin().is_terminal() {
            let message = format!("rm asks before it removes {}, and there is nobody to ask", name.repo);
            return Err(bad_input_with(message, "--yes"));
        }
        let bytes = usize::try_from(found.bytes).unwrap_or(usize::MAX);
        let mut terminal = io::stderr();
        write!(
            terminal,
            "remove {} ({}) from {}? [y/N] ",
            name.repo,
            summary::bytes(bytes),
            found.path.display()
        )?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
            return Err(bad_input("nothing was removed"));
        }
    }
    remove(hub.cache(), &name)?;
    out.answer(&format!("removed {}\n", name.repo), &json!({ "removed": name.repo, "bytes": found.bytes }));
    Ok(())
}

fn parsed(typed: &str) -> Result<Name> {
    Name::parse(typed).ok_or_else(|| {
        bad_input_with(format!("{typed:?} is not the name of a model on the hub"), "OWNER/NAME")
    })
}
