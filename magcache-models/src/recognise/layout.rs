//! The table of layouts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use magcache_core::inventory;
use serde::Deserialize;

use crate::checkpoint::Weights;

/// What a part of a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The diffusion transformer.
    Transformer,
    /// T5 or UMT5.
    TextEncoder,
    /// CLIP, which FLUX.1 reads beside T5.
    TextEncoderClip,
    /// CLIP's vision tower.
    ImageEncoder,
    /// The autoencoder.
    Vae,
}

impl Role {
    /// In messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::TextEncoder | Self::TextEncoderClip => "text encoder",
            Self::ImageEncoder => "image encoder",
            Self::Vae => "autoencoder",
        }
    }
}

/// The tensors of a part of a model as some program writes them.
#[derive(Debug, Deserialize)]
pub struct Layout {
    /// Its key.
    pub name: String,
    /// Its name in messages.
    pub what: String,
    /// What the part is for.
    pub role: Role,
    pub(super) prefixes: Vec<String>,
    /// Names that identify it, by which nothing before it in the table is identified.
    has: Vec<String>,
    /// The first that fits says more.
    #[serde(default)]
    variants: Vec<Variant>,
    /// Names, with letters in braces for numbers, and shapes; none if sizes alone decide which there are.
    pub(super) tensors: BTreeMap<String, String>,
    /// Tensors of which a file has all or none.
    #[serde(default)]
    pub(super) options: Vec<BTreeMap<String, String>>,
    /// Tensors that published files have and no model reads.
    #[serde(default)]
    pub(super) unused: Vec<String>,
    /// Ends of names, and what the layout has in their place.
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// Published models that have it, by their names.
    #[cfg(test)]
    #[serde(default)]
    pub(super) published: BTreeMap<String, Published>,
}

/// What tests know of a published model.
#[cfg(test)]
#[derive(Debug, Deserialize)]
pub(super) struct Published {
    /// By the letters of its layout.
    pub(super) sizes: BTreeMap<String, usize>,
    /// Names, in part, of the options that it has.
    #[serde(default)]
    pub(super) options: Vec<String>,
    pub(super) tensors: usize,
    pub(super) parameters: usize,
    /// What it is recognised as, in part.
    pub(super) is: String,
}

/// Models of one layout that differ in what they have or how wide they are.
#[derive(Debug, Deserialize)]
pub struct Variant {
    /// Its name in messages.
    pub is: String,
    /// Tensors that identify it.
    #[serde(default)]
    has: Vec<String>,
    /// Or: the length of an axis.
    axis: Option<(String, usize, usize)>,
    /// Whether this build has no such model.
    #[serde(default)]
    pub unsupported: bool,
}

/// More layouts, of a family of models: the text of a list like `layouts.json`. Registered with
/// `inventory::submit!`.
#[derive(Debug)]
pub struct LayoutTable(pub &'static str);

inventory::collect!(LayoutTable);

/// All layouts, in the order in which they are looked for: those of this module first.
pub(super) fn layouts() -> &'static [Layout] {
    static ALL: LazyLock<Vec<Layout>> = LazyLock::new(|| {
        let read = |text: &str| serde_json::from_str::<Vec<Layout>>(text).unwrap_or_default();
        let mut families: Vec<Layout> =
            inventory::iter::<LayoutTable>.into_iter().flat_map(|table| read(table.0)).collect();
        // The order of registrations is not that of a program's text.
        families.sort_by(|a, b| a.name.cmp(&b.name));
        read(include_str!("layouts.json")).into_iter().chain(families).collect()
    });
    &ALL
}

impl Layout {
    /// Whether a file with these names has it behind this prefix.
    pub(super) fn is_in(&self, names: &BTreeSet<&str>, prefix: &str) -> bool {
        self.has.iter().all(|name| self.stored(names, prefix, name).is_some())
    }

    /// The name in the file of a tensor of this layout.
    pub(super) fn stored(&self, names: &BTreeSet<&str>, prefix: &str, name: &str) -> Option<String> {
        let own = format!("{prefix}{name}");
        let aliases = self.aliases.iter().filter_map(|(other, usual)| {
            Some(format!("{prefix}{}{other}", name.strip_suffix(usual.as_str())?))
        });
        std::iter::once(own).chain(aliases).find(|name| names.contains(name.as_str()))
    }

    /// The layout's name for one that a file may have in its place.
    pub(super) fn usual(&self, name: &str) -> String {
        let usual = |(other, usual): (&String, &String)| {
            Some(format!("{}{usual}", name.strip_suffix(other.as_str())?))
        };
        self.aliases.iter().find_map(usual).unwrap_or_else(|| name.to_owned())
    }

    /// The names that identify it.
    pub(super) fn marks(&self) -> &[String] {
        &self.has
    }

    /// Whether nothing reads a tensor of this name.
    pub(super) fn is_unused(&self, name: &str) -> bool {
        self.unused.iter().any(|unused| unused == name)
    }

    pub(super) fn variant(
        &self,
        weights: &Weights,
        names: &BTreeSet<&str>,
        prefix: &str,
    ) -> Option<&Variant> {
        self.variants.iter().find(|variant| {
            let axis = variant.axis.as_ref().is_none_or(|(name, axis, length)| {
                let shape = weights.shape(&format!("{prefix}{name}"));
                shape.and_then(|shape| shape.get(*axis)) == Some(length)
            });
            axis && variant.has.iter().all(|name| self.stored(names, prefix, name).is_some())
        })
    }
}
