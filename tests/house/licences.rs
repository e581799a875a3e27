//! Every crate in the dependency tree comes from crates.io under a licence that permits redistribution.

use std::{path::Path, process::Command};

use serde_json::Value;
use spdx::{Expression, LicenseId, ParseMode, exception_id, license_id};

const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    // Of data, the certificate authorities that downloads trust: whoever passes them on passes on its text.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    // Of its own files: whoever changes them passes on the changed files, and everything else stays as it is.
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// The packages of the lock file that are built on this machine.
fn packages() -> Vec<Value> {
    let output = |command: &mut Command| {
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let rustc = output(Command::new("rustc").arg("-vV"));
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let text = output(
        Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host])
            .arg("--manifest-path")
            .arg(manifest),
    );
    let metadata: Value = serde_json::from_str(&text).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn is_allowed(licence: &str) -> bool {
    let allowed: Vec<LicenseId> = ALLOWED.into_iter().map(|name| license_id(name).unwrap()).collect();
    let expression = Expression::parse_mode(licence, ParseMode::LAX).unwrap();
    expression.evaluate(|asked| {
        let known = asked.license.id().is_some_and(|id| allowed.contains(&id));
        let exception = asked.addition.as_ref().map(spdx::AdditionItem::id);
        known && exception.is_none_or(|exception| exception == exception_id("LLVM-exception"))
    })
}

#[test]
fn every_crate_may_be_passed_on() {
    let packages = packages();
    let mut seen = 0;
    for package in &packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(is_allowed(licence), "{name}: {licence}");
        let source = package["source"].as_str();
        let known = source.is_none_or(|s| s == "registry+https://github.com/rust-lang/crates.io-index");
        assert!(known, "{name} comes from {source:?}");
        seen += usize::from(source.is_some());
    }
    assert!(seen > 100, "only {seen} crates");
}

#[test]
fn what_asks_for_more_is_refused() {
    assert!(is_allowed("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(is_allowed("Apache-2.0 WITH LLVM-exception"));
    for licence in ["GPL-3.0", "MIT AND LGPL-2.1", "Apache-2.0 WITH Classpath-exception-2.0"] {
        assert!(!is_allowed(licence), "{licence}");
    }
}
