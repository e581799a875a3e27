//! Writes GGUF files: enough of the container for tests and benchmarks.

/// A tensor as it is stored.
pub(crate) struct Stored {
    pub(crate) name: String,
    /// Slowest axis first.
    pub(crate) shape: Vec<usize>,
    /// The code of its type.
    pub(crate) code: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Codes and block sizes (values, bytes) of types.
pub(crate) const F32: u32 = 0;
pub(crate) const TYPES: [(&str, u32, usize, usize); 10] = [
    ("Q4_0", 2, 32, 18),
    ("Q4_1", 3, 32, 20),
    ("Q5_0", 6, 32, 22),
    ("Q5_1", 7, 32, 24),
    ("Q8_0", 8, 32, 34),
    ("Q2_K", 10, 256, 84),
    ("Q3_K", 11, 256, 110),
    ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176),
    ("Q6_K", 14, 256, 210),
];

/// Where the f16 scales of a block of each type are.
const SCALES: [&[usize]; 10] =
    [&[0], &[0, 2], &[0], &[0, 2], &[0], &[80, 82], &[108], &[0, 2], &[0, 2], &[208]];

/// Numbers that look random and are the same everywhere.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// In -1..1.
    pub(crate) fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

impl Stored {
    /// Small random floats.
    pub(crate) fn floats(name: &str, shape: &[usize], scale: f32, numbers: &mut Numbers) -> Self {
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|_| (scale * numbers.float()).to_le_bytes()).collect();
        Self { name: name.to_owned(), shape: shape.to_vec(), code: F32, bytes }
    }

    /// Random blocks of a type by its name, with small scales.
    pub(crate) fn blocks(kind: &str, name: &str, shape: &[usize], numbers: &mut Numbers) -> Self {
        let at = TYPES.iter().position(|(known, ..)| *known == kind).expect("a known type");
        let (_, code, values, size) = TYPES[at];
        let blocks = shape.iter().product::<usize>() / values;
        let mut bytes: Vec<u8> = (0..blocks * size).map(|_| numbers.next() as u8).collect();
        for block in bytes.chunks_exact_mut(size) {
            for place in SCALES[at] {
                // About 0.0003, which keeps sums small in every type.
                block[*place..place + 2].copy_from_slice(&0x0d00u16.to_le_bytes());
            }
        }
        Self { name: name.to_owned(), shape: shape.to_vec(), code, bytes }
    }
}

/// A file with an architecture and these tensors.
pub(crate) fn file(architecture: &str, tensors: &[Stored]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut file = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend([text("general.architecture"), 8u32.to_le_bytes().to_vec(), text(architecture)].concat());
    let mut offset = 0usize;
    for Stored { name, shape, code, bytes } in tensors {
        file.extend(text(name));
        file.extend((shape.len() as u32).to_le_bytes());
        file.extend(shape.iter().rev().flat_map(|n| (*n as u64).to_le_bytes()));
        file.extend(code.to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset = (offset + bytes.len()).next_multiple_of(32);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    for Stored { bytes, .. } in tensors {
        file.extend(bytes);
        file.resize(file.len().next_multiple_of(32), 0);
    }
    file
}

/// The tensors of a Wan transformer under original names: `matrix(name, shape)` gives those of the blocks.
pub(crate) fn wan(
    [dim, ffn, layers, channels]: [usize; 4],
    numbers: &mut Numbers,
    matrix: impl Fn(&str, &[usize], &mut Numbers) -> Stored,
) -> Vec<Stored> {
    let mut all = Vec::new();
    let (text, freq) = (4096, 256);
    let outside: [(&str, Vec<usize>); 15] = [
        ("patch_embedding.weight", vec![dim, channels, 1, 2, 2]),
        ("patch_embedding.bias", vec![dim]),
        ("text_embedding.0.weight", vec![dim, text]),
        ("text_embedding.0.bias", vec![dim]),
        ("text_embedding.2.weight", vec![dim, dim]),
        ("text_embedding.2.bias", vec![dim]),
        ("time_embedding.0.weight", vec![dim, freq]),
        ("time_embedding.0.bias", vec![dim]),
        ("time_embedding.2.weight", vec![dim, dim]),
        ("time_embedding.2.bias", vec![dim]),
        ("time_projection.1.weight", vec![6 * dim, dim]),
        ("time_projection.1.bias", vec![6 * dim]),
        ("head.head.weight", vec![4 * channels, dim]),
        ("head.head.bias", vec![4 * channels]),
        ("head.modulation", vec![1, 2, dim]),
    ];
    for (name, shape) in outside {
        all.push(Stored::floats(name, &shape, 0.02, numbers));
    }
    for i in 0..layers {
        let block = |name: &str| format!("blocks.{i}.{name}");
        for attention in ["self_attn", "cross_attn"] {
            for layer in ["q", "k", "v", "o"] {
                all.push(matrix(&block(&format!("{attention}.{layer}.weight")), &[dim, dim], numbers));
                all.push(Stored::floats(&block(&format!("{attention}.{layer}.bias")), &[dim], 0.02, numbers));
            }
            for norm in ["norm_q", "norm_k"] {
                all.push(Stored::floats(&block(&format!("{attention}.{norm}.weight")), &[dim], 1.0, numbers));
            }
        }
        all.push(matrix(&block("ffn.0.weight"), &[ffn, dim], numbers));
        all.push(Stored::floats(&block("ffn.0.bias"), &[ffn], 0.02, numbers));
        all.push(matrix(&block("ffn.2.weight"), &[dim, ffn], numbers));
        all.push(Stored::floats(&block("ffn.2.bias"), &[dim], 0.02, numbers));
        all.push(Stored::floats(&block("norm3.weight"), &[dim], 1.0, numbers));
        all.push(Stored::floats(&block("norm3.bias"), &[dim], 0.02, numbers));
        all.push(Stored::floats(&block("modulation"), &[1, 6, dim], 0.1, numbers));
    }
    all
}
