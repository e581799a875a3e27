//! `trace diff`: where two runs decided differently.

use anyhow::Result;

use crate::{
    args::{Trace, TraceKind},
    console::{Console, Failed},
    replay::trace::{Diff, read},
};

pub(crate) fn run(args: &Trace, out: &Console) -> Result<()> {
    let TraceKind::Diff(files) = &args.what;
    let diff = Diff::of(&read(&files.a)?, &read(&files.b)?);
    out.answer(&diff.to_string(), &diff.json());
    if diff.same() { Ok(()) } else { Err(Failed("the decisions differ".to_owned()).into()) }
}
