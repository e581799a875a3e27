//! The published models, as generated files of their names and shapes: each layout lists those that have it.

use std::collections::BTreeMap;

use candle_core::Device;
use magcache_core::inventory;

use super::{
    Role,
    layout::{Layout, LayoutTable, Published, layouts},
    part, parts,
    sizes::{list_of, shape},
};
use crate::checkpoint::{WeightDtype, Weights};

/// Every tensor of a model, by the layout's names.
fn tensors(layout: &Layout, model: &Published) -> BTreeMap<String, Vec<usize>> {
    // An option is told by one of its names.
    let of_option = |option: &BTreeMap<String, String>| {
        model.options.iter().any(|marker| option.keys().any(|name| name.contains(marker.as_str())))
    };
    let options = layout.options.iter().filter(|option| of_option(option)).flatten();
    let mut all = BTreeMap::new();
    for (name, written) in layout.tensors.iter().chain(options) {
        let shape = shape(written, &model.sizes).unwrap_or_else(|| panic!("{name}: {written}"));
        match list_of(name) {
            None => drop(all.insert(name.clone(), shape)),
            Some((_, letter)) => {
                for i in 0..model.sizes[letter] {
                    all.insert(name.replace(&format!("{{{letter}}}"), &i.to_string()), shape.clone());
                }
            }
        }
    }
    all
}

/// A file of these tensors whose values are holes, which take no space.
fn hollow(tensors: &BTreeMap<String, Vec<usize>>, prefix: &str) -> (tempfile::TempDir, Weights) {
    let (mut header, mut at) = (serde_json::Map::new(), 0usize);
    for (name, shape) in tensors {
        let end = at + shape.iter().product::<usize>();
        let entry = serde_json::json!({ "dtype": "F8_E4M3", "shape": shape, "data_offsets": [at, end] });
        header.insert(format!("{prefix}{name}"), entry);
        at = end;
    }
    let header = serde_json::to_vec(&header).expect("is JSON");
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("file.safetensors");
    let start = [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat();
    std::fs::write(&path, &start).expect("can be written");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("is there");
    file.set_len((start.len() + at) as u64).expect("holes take no space");
    let folder = crate::checkpoint::Folder::open(root.path()).expect("exists");
    let weights = Weights::open_files(&folder, &["file.safetensors"], &Device::Cpu, WeightDtype::Keep);
    (root, weights.expect("is one"))
}

const ROLES: [Role; 5] =
    [Role::Transformer, Role::TextEncoder, Role::TextEncoderClip, Role::ImageEncoder, Role::Vae];

#[test]
fn every_published_model_is_recognised_behind_every_prefix() {
    let published = layouts()
        .iter()
        .flat_map(|layout| layout.published.iter().map(move |(name, model)| (layout, name, model)));
    for (layout, name, model) in published {
        let tensors = tensors(layout, model);
        assert_eq!(tensors.len(), model.tensors, "{name}");
        let parameters: usize = tensors.values().map(|shape| shape.iter().product::<usize>()).sum();
        assert_eq!(parameters, model.parameters, "{name}");
        for prefix in &layout.prefixes {
            let (_root, weights) = hollow(&tensors, prefix);
            let found = parts(&weights);
            assert_eq!(found.len(), 1, "{name} behind {prefix:?}: {found:?}");
            assert_eq!(
                (found[0].layout.name.as_str(), found[0].prefix),
                (layout.name.as_str(), prefix.as_str())
            );
            let told = found[0].describe();
            assert!(told.contains(&model.is), "{name}: {told}");
            for (letter, size) in &model.sizes {
                assert_eq!(found[0].sizes.get(letter), Some(size), "{name}: {letter}");
            }
            let checked = part(&weights, &ROLES).map_err(|error| error.to_string());
            if model.is == "VACE" {
                assert!(checked.expect_err("is not part of this build").contains("VACE"));
            } else {
                assert!(checked.is_ok(), "{name}: {}", checked.expect_err("was checked"));
            }
        }
    }
}

#[test]
fn every_table_is_read_and_every_layout_has_a_published_model() {
    for LayoutTable(text) in inventory::iter::<LayoutTable> {
        serde_json::from_str::<Vec<Layout>>(text).expect("is a list of layouts");
    }
    // Of an autoencoder, which sizes decide, and of a second spelling nothing is listed.
    for layout in layouts().iter().filter(|layout| !layout.tensors.is_empty()) {
        let other_names = ["wan_diffusers", "flux1_diffusers", "umt5_native"].contains(&layout.name.as_str());
        assert_eq!(layout.published.is_empty(), other_names, "{}", layout.name);
    }
}

/// Of tensors, by their names.
type Shapes = BTreeMap<String, Vec<usize>>;

#[test]
fn what_is_missing_more_or_of_another_shape_is_named() {
    let layout = layouts().iter().find(|layout| layout.name == "wan").expect("is there");
    let whole = tensors(layout, &layout.published["wan2.1_t2v_1.3B"]);
    let message = |change: &dyn Fn(&mut Shapes)| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        let (_root, weights) = hollow(&tensors, "diffusion_model.");
        part(&weights, &[Role::Transformer]).expect_err("is not whole").to_string()
    };
    let missing = message(&|tensors| drop(tensors.remove("blocks.7.ffn.0.bias")));
    assert!(
        missing.contains("1 tensor of its 825 tensors is missing: \"diffusion_model.blocks.7.ffn.0.bias\""),
        "{missing}"
    );
    let surplus = message(&|tensors| drop(tensors.insert("blocks.7.extra.weight".to_owned(), vec![3])));
    assert!(surplus.contains("1 tensor more: \"diffusion_model.blocks.7.extra.weight\""), "{surplus}");
    let wrong =
        message(&|tensors| drop(tensors.insert("blocks.9.ffn.2.weight".to_owned(), vec![1536, 8961])));
    assert!(
        wrong.contains(
            "blocks.9.ffn.2.weight\" has shape [1536, 8961], the other tensors make it [1536, 8960]"
        ),
        "{wrong}"
    );
    let (_root, weights) = hollow(&whole, "");
    let other = part(&weights, &[Role::Vae]).expect_err("is a transformer").to_string();
    assert!(other.contains("it is a Wan transformer T2V") && other.contains("not a autoencoder"), "{other}");
    let (_root, weights) = hollow(&BTreeMap::from([("x.weight".to_owned(), vec![2])]), "");
    let none = part(&weights, &[Role::Transformer]).expect_err("is nothing");
    assert!(none.hint().is_some_and(|hint| hint.contains("head.modulation")), "{none}");
}
