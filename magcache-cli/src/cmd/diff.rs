//! `profile diff` and `trace diff`: how two profiles or the decisions of two runs differ.

use std::path::{Path, PathBuf};

use anyhow::Result;
use magcache_core::profile::Profile as Calibration;

use crate::{
    args::{Profile, Trace},
    calibration::diff::{self, Diff},
    console::{Console, Failed, bad_input_with},
    files::{Writes, wrote},
    plot::Target,
    replay::trace,
};

pub(crate) fn profiles(Profile::Diff(args): &Profile, out: &Console) -> Result<()> {
    if args.tolerance.is_nan() || args.tolerance < 0.0 {
        let message = format!("--tolerance is {}, it must be at least 0", args.tolerance);
        return Err(bad_input_with(message, "--tolerance 0.001"));
    }
    let mut writes = Writes::new(args.writing);
    for name in [&args.a, &args.b].map(Path::new).into_iter().filter(|name| name.is_file()) {
        writes = writes.reads("the profile", Some(name));
    }
    writes.file("--plot", args.plot.as_deref()).check()?;
    let plot = args.plot.as_deref().map(Target::prepare).transpose()?;
    let (a, b) = (Calibration::find(&args.a)?, Calibration::find(&args.b)?);
    let found = Diff::of(&a, &b);
    let drawn: Vec<PathBuf> =
        plot.iter().map(|target| target.write(&diff::chart(&a, &b))).collect::<Result<_>>()?;
    let equal = found.equal(args.tolerance);
    let mut document = found.json(args.tolerance)?;
    document["outputs"] = serde_json::to_value(&drawn)?;
    let same = if equal { "caches read the same from both\n" } else { "" };
    out.answer(&format!("a is {}, b is {}\n{found}{}{same}", args.a, args.b, wrote(&drawn)), &document);
    if equal { Ok(()) } else { Err(Failed("the profiles differ".to_owned()).into()) }
}

pub(crate) fn traces(Trace::Diff { a, b }: &Trace, out: &Console) -> Result<()> {
    let diff = trace::Diff::of(&trace::read(a)?, &trace::read(b)?);
    out.answer(&diff.to_string(), &diff.json()?);
    if diff.same() { Ok(()) } else { Err(Failed("the decisions differ".to_owned()).into()) }
}
