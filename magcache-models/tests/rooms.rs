//! Imports go one way: from model families to what they share, and never between families.

use std::{fs, path::Path};

/// The modules ("rooms") in `src` that models share, from the ground up: each may refer to those before it.
/// Every other folder is a family, which may refer to all of them and to no other family.
const SHARED: [&str; 13] = [
    "checkpoint",
    "nn",
    "blocks",
    "ranks",
    "recognise",
    "image",
    "sampler",
    "text",
    "clip",
    "wav2vec2",
    "autoencoder",
    "mmdit",
    "pipeline",
];

/// Small modules that every room may use.
const TOOLS: [&str; 2] = ["model_id", "once"];

/// Collects every `crate::room` below `folder`, with the file that refers to it.
fn named(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut rooms = Vec::new();
        for rest in text.split("crate::").skip(1) {
            match rest.strip_prefix('{') {
                // The first word of every entry in the group.
                Some(group) => {
                    let mut depth = 0;
                    let mut entry = true;
                    for (i, c) in group.char_indices() {
                        match c {
                            '{' => depth += 1,
                            '}' if depth == 0 => break,
                            '}' => depth -= 1,
                            ',' if depth == 0 => entry = true,
                            c if entry && c.is_alphabetic() => {
                                rooms.push(&group[i..]);
                                entry = false;
                            }
                            _ => {}
                        }
                    }
                }
                None => rooms.push(rest),
            }
        }
        for room in rooms {
            let end = room.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(room.len());
            found.push((room[..end].to_owned(), path.display().to_string()));
        }
    }
}

/// Whether a folder registers what opens its models.
fn has_loader(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            has_loader(&path)
        } else {
            fs::read_to_string(&path).unwrap().contains("inventory::submit! {\n    Loader {")
        }
    })
}

/// The families in `src`: folders of their own, each with what opens its models.
fn families(src: &Path) -> Vec<String> {
    let folders =
        fs::read_dir(src).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
    let names = folders.map(|folder| folder.file_name().into_string().unwrap());
    let families: Vec<String> = names.filter(|name| !SHARED.contains(&name.as_str())).collect();
    for family in &families {
        let opens = has_loader(&src.join(family));
        assert!(opens, "`src/{family}` is no family: put it among the rooms above, or register a `Loader`");
    }
    families
}

#[test]
fn rooms_name_what_lies_below_them_and_families_no_other_family() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports = 0;
    let families = families(&src);
    assert!(families.len() >= 4, "{families:?}");
    let above = families.iter().map(|family| (family.as_str(), SHARED.len()));
    for (room, floor) in SHARED.into_iter().enumerate().map(|(floor, room)| (room, floor)).chain(above) {
        let folder = src.join(room);
        if !folder.exists() {
            continue;
        }
        let mut found = Vec::new();
        named(&folder, &mut found);
        for (other, file) in found {
            let may = other == room || TOOLS.contains(&other.as_str()) || SHARED[..floor].contains(&&*other);
            assert!(may, "{file} names `crate::{other}`: {room} may name {:?}", &SHARED[..floor]);
            imports += 1;
        }
    }
    assert!(imports > 200, "only {imports} imports were found");
}
