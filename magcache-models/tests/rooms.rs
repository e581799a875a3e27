//! Imports go one way: from model families to what they share, and never between families.

use std::{fs, path::Path};

/// The modules ("rooms") in `src`, from the ground up: each may refer to those before it; families may not
/// refer to each other.
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
const FAMILIES: [&str; 4] = ["wan", "flux", "z_image", "qwen_image"];

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

#[test]
fn rooms_name_what_lies_below_them_and_families_no_other_family() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports = 0;
    let above = FAMILIES.map(|family| (family, SHARED.len()));
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
    let folders = fs::read_dir(src).unwrap().map(|entry| entry.unwrap());
    for folder in folders.filter(|entry| entry.path().is_dir()) {
        let name = folder.file_name().into_string().unwrap();
        let known = SHARED.contains(&&*name) || FAMILIES.contains(&&*name);
        assert!(known, "`src/{name}` has no place among the rooms: put it into one of the lists above");
    }
}
