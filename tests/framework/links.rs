//! Two packages of the core in one program: two registries that know nothing of each other.

use std::{fs, path::Path, process::Command};

/// A manifest that links what the core's own manifest says.
fn manifest(links: &str) -> String {
    let version = "[package]\nname = \"magcache-core\"\nversion = \"0.0.7\"\nedition = \"2021\"\n";
    format!("{version}links = {links}\n")
}

#[test]
fn cargo_refuses_two_of_them_and_names_both() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("magcache-core");
    let own = fs::read_to_string(core.join("Cargo.toml")).unwrap();
    let links = own.lines().find_map(|line| line.strip_prefix("links = ")).expect("the core links itself");
    let folder = tempfile::tempdir().unwrap();
    let (program, other) = (folder.path().join("program"), folder.path().join("other"));
    for (crate_folder, build) in [(&program, None), (&other, Some("fn main() {}"))] {
        fs::create_dir_all(crate_folder.join("src")).unwrap();
        fs::write(crate_folder.join("src/lib.rs"), "").unwrap();
        build.into_iter().for_each(|text| fs::write(crate_folder.join("build.rs"), text).unwrap());
    }
    // What was downloaded for the workspace is enough.
    fs::copy(core.with_file_name("Cargo.lock"), program.join("Cargo.lock")).unwrap();
    let dependency = |key: &str, path: &Path| {
        format!("{key} = {{ package = \"magcache-core\", path = {path:?}, default-features = false }}\n")
    };
    let cargo = |two: bool, links: &str| {
        fs::write(other.join("Cargo.toml"), manifest(links)).unwrap();
        let head = "[package]\nname = \"program\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n";
        let second = if two { dependency("other", &other) } else { String::new() };
        let text = format!("{head}\n[dependencies]\n{}{second}", dependency("own", &core));
        fs::write(program.join("Cargo.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO"));
        let out = command.args(["tree", "--offline"]).current_dir(&program).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for (two, links) in [(false, links), (true, "\"other\"")] {
        let (fits, told) = cargo(two, links);
        assert!(fits, "{told}");
    }
    let (fits, told) = cargo(true, links);
    let both = [format!(" {}", env!("CARGO_PKG_VERSION")), " v0.0.7 ".to_owned()];
    assert!(!fits && told.contains("links to the native library `magcache-core`"), "{told}");
    assert!(both.iter().all(|version| told.contains(version)), "{told}");
}
