//! `completions` and `man`: the help as shell completions and as man pages.

use anyhow::Result;
use clap::CommandFactory;
use serde_json::json;

use crate::{
    PROGRAM,
    args::{Args, Completions, Man},
    console::{Console, bad_input_with, did_you_mean},
};

pub(crate) fn completions(args: &Completions, out: &Console) {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), PROGRAM, &mut script);
    let script = String::from_utf8_lossy(&script);
    out.answer(&script, &json!({ "shell": args.shell.to_string(), "script": script }));
}

pub(crate) fn man(args: &Man, out: &Console) -> Result<()> {
    let mut program = Args::command();
    program.build();
    let of = match &args.command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(command) => command.clone(),
            None => {
                let names = program.get_subcommands().map(clap::Command::get_name);
                let hint = did_you_mean(name, names, "magcache --help lists the commands");
                return Err(bad_input_with(format!("unknown command {name:?}"), hint));
            }
        },
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(of).render(&mut page)?;
    let page = String::from_utf8_lossy(&page);
    out.answer(&page, &json!({ "command": args.command, "page": page }));
    Ok(())
}
