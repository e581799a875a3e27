//! `profile diff`: how two calibration profiles differ.

use std::path::{Path, PathBuf};

use anyhow::Result;
use magcache_core::profile::Profile as Calibration;

use crate::{
    args::{Profile, ProfileKind},
    calibration::diff::{self, Diff},
    console::{Console, Failed, bad_input_with},
    files::Writes,
    plot::Target,
};

pub(crate) fn run(args: &Profile, out: &Console) -> Result<()> {
    let ProfileKind::Diff(args) = &args.what;
    if args.tolerance.is_nan() || args.tolerance < 0.0 {
        let message = format!("--tolerance is {}, it must be at least 0", args.tolerance);
        return Err(bad_input_with(message, "--tolerance 0.001"));
    }
    let own = |name: &str| Path::new(name).is_file().then(|| PathBuf::from(name));
    let (a, b) = (own(&args.a), own(&args.b));
    let writes =
        Writes::new(args.writing).reads("the profile", a.as_deref()).reads("the profile", b.as_deref());
    writes.file("--plot", args.plot.as_deref()).check()?;
    let plot = args.plot.as_deref().map(Target::prepare).transpose()?;
    let (a, b) = (Calibration::find(&args.a)?, Calibration::find(&args.b)?);
    let found = Diff::of(&a, &b);
    let drawn = plot.map(|target| target.write(&diff::chart(&a, &b))).transpose()?;
    let mut document = found.json(args.tolerance);
    document["outputs"] = drawn.iter().map(|path| path.display().to_string()).collect();
    let mut text = format!("a is {}, b is {}\n{found}", args.a, args.b);
    text += &drawn.iter().map(|path| format!("wrote {}\n", path.display())).collect::<String>();
    let equal = found.equal(args.tolerance);
    if equal {
        text += "caches read the same from both\n";
    }
    out.answer(&text, &document);
    if equal { Ok(()) } else { Err(Failed("the profiles differ".to_owned()).into()) }
}
