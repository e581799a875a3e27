//! What distinguishes tensors, and what they take.

use std::collections::BTreeMap;

use candle_core::DType;
use sha2::{Digest, Sha256};

use super::{WeightDtype, Weights};
use crate::{header::TensorInfo, scales::Scale};

impl Weights {
    /// A text of the file's header, of the first file if there are several.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.set.files.first()?.metadata.text(key)
    }

    /// A number of a GGUF file's table; a flag is 0 or 1.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.set.files.first()?.metadata.value(key)?.number()
    }

    /// The numbers of an array in a GGUF file's table.
    pub fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        let file = self.set.files.first()?;
        file.metadata.value(key)?.numbers(file.blob.bytes())
    }

    /// The texts of an array in a GGUF file's table.
    pub fn texts(&self, key: &str) -> Option<Vec<String>> {
        let file = self.set.files.first()?;
        file.metadata.value(key)?.texts(file.blob.bytes())
    }

    /// The bytes of an array in a GGUF file's table.
    pub fn raw(&self, key: &str) -> Option<&[u8]> {
        let file = self.set.files.first()?;
        file.metadata.value(key)?.bytes(file.blob.bytes())
    }

    /// A tensor's bytes as they are in the file: for those that hold a file of another kind.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let located = self.set.tensors.get(&self.full(name))?;
        self.set.files.get(located.file)?.blob.bytes().get(located.info.range.clone())
    }

    /// What a GGUF file says that it is.
    pub fn architecture(&self) -> Option<&str> {
        self.text("general.architecture")
    }

    /// SHA-256 over the names, number formats, shapes, scales and bytes of this module's tensors, by name:
    /// tells whether two checkpoints of one layout are identical. Reads every byte once.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (name, located) in self.scoped() {
            let TensorInfo { format, shape, range, scale, .. } = &located.info;
            hash.update(format!("{name} {format} {shape:?}\n"));
            for scale in scale.iter().flat_map(Scale::values) {
                hash.update(scale.to_le_bytes());
            }
            if let Some(file) = self.set.files.get(located.file) {
                hash.update(file.blob.bytes().get(range.clone()).unwrap_or_default());
                file.blob.release(range.clone());
            }
        }
        format!("{:x}", hash.finalize())
    }

    /// Bytes that this module's tensors take in the file.
    pub fn total_bytes(&self) -> u64 {
        self.scoped().map(|(_, located)| located.info.bytes() as u64).sum()
    }

    /// Number of values in this module's tensors.
    pub fn parameters(&self) -> u64 {
        self.scoped().map(|(_, located)| located.info.shape.iter().map(|n| *n as u64).product::<u64>()).sum()
    }

    /// Bytes that this module's tensors take in memory when they are loaded as the policy says. What stays
    /// coded lies in the mapped file, whose pages count too.
    pub fn resident_bytes(&self) -> u64 {
        let bytes = |located: &super::Located| {
            let (info, cast) = (&located.info, matches!(self.set.dtype, WeightDtype::Cast(_)));
            let kept = info.format.is_coded() && info.shape.len() == 2;
            let wide = match self.set.dtype {
                WeightDtype::Cast(dtype) => dtype.size_in_bytes(),
                _ => self.kept_dtype(info.format).size_in_bytes(),
            };
            if kept && !cast { info.bytes() } else { info.values() * wide }
        };
        self.scoped().map(|(_, located)| bytes(located) as u64).sum()
    }

    /// Bytes of the largest matrix in f32, if matrices are widened or decoded for each product.
    pub fn scratch_bytes(&self) -> u64 {
        let widened = |located: &super::Located| match self.set.dtype {
            WeightDtype::Cast(dtype) => dtype != DType::F32,
            _ => located.info.format.float() != Some(DType::F32),
        };
        let layers = self.scoped().filter(|(_, located)| located.info.shape.len() == 2 && widened(located));
        // Tables of embeddings are read by rows.
        let layers = layers.filter(|(name, _)| !name.contains("embed_tokens") && !name.contains("shared."));
        layers.map(|(_, located)| 4 * located.info.values() as u64).max().unwrap_or_default()
    }

    /// The number formats of this module's matrices, as people write them: `bf16`, `gguf Q4_K+Q6_K`,
    /// `fp8 e4m3fn scaled`.
    pub fn number_formats(&self) -> String {
        let (mut coded, mut floats) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
        let mut scaled = false;
        for (_, located) in self.scoped() {
            let info = &located.info;
            let of_kind = if info.format.is_coded() { &mut coded } else { &mut floats };
            *of_kind.entry(info.format.to_string()).or_default() += info.bytes() as u64;
            scaled |= info.scale.is_some();
        }
        let names: Vec<&str> = coded.keys().map(String::as_str).collect();
        if names.is_empty() {
            let largest = floats.into_iter().max_by_key(|(_, bytes)| *bytes);
            return largest.map(|(name, _)| name.to_lowercase()).unwrap_or_default();
        }
        let tiny = names.iter().all(|name| name.starts_with("F8_"));
        let names = names.join("+");
        if !tiny {
            return format!("gguf {names}");
        }
        let names = names.replace("F8_E4M3", "e4m3fn").replace("F8_E5M2", "e5m2");
        format!("fp8 {names}{}", if scaled { " scaled" } else { "" })
    }

    /// The storage types in this module, with the bytes in each.
    pub fn stored_dtypes(&self) -> BTreeMap<String, u64> {
        let mut bytes = BTreeMap::new();
        for (_, located) in self.scoped() {
            *bytes.entry(located.info.format.to_string()).or_default() += located.info.bytes() as u64;
        }
        bytes
    }
}
