//! How single values are stored.

use std::fmt;

use candle_core::DType;
use safetensors::Dtype;

/// The number format of a tensor: floats of some width, or blocks of small integers with common scales.
///
/// It is a property of each tensor: published files mix several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[expect(missing_docs, reason = "the names are those of GGUF and safetensors")]
pub enum NumberFormat {
    F32,
    F16,
    BF16,
    /// 1 sign, 4 exponent and 3 fraction bits, largest value 448, no infinity.
    F8E4M3,
    /// The upper byte of an f16.
    F8E5M2,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    /// A type of safetensors and PyTorch files that nothing here computes with.
    Other(Dtype),
}

/// The formats that GGUF files have in use, with their codes there and their names.
const GGUF: [(NumberFormat, u32, &str); 13] = [
    (NumberFormat::F32, 0, "F32"),
    (NumberFormat::F16, 1, "F16"),
    (NumberFormat::Q4_0, 2, "Q4_0"),
    (NumberFormat::Q4_1, 3, "Q4_1"),
    (NumberFormat::Q5_0, 6, "Q5_0"),
    (NumberFormat::Q5_1, 7, "Q5_1"),
    (NumberFormat::Q8_0, 8, "Q8_0"),
    (NumberFormat::Q2K, 10, "Q2_K"),
    (NumberFormat::Q3K, 11, "Q3_K"),
    (NumberFormat::Q4K, 12, "Q4_K"),
    (NumberFormat::Q5K, 13, "Q5_K"),
    (NumberFormat::Q6K, 14, "Q6_K"),
    (NumberFormat::BF16, 30, "BF16"),
];

/// Types of GGUF that are known by name alone.
const GGUF_OTHERS: [(u32, &str); 26] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl NumberFormat {
    /// The format with this code in a GGUF file, or the name of a type that is not read.
    pub(crate) fn of_gguf(code: u32) -> Result<Self, String> {
        if let Some((format, ..)) = GGUF.iter().find(|(_, known, _)| *known == code) {
            return Ok(*format);
        }
        let known = GGUF_OTHERS.iter().find(|(known, _)| *known == code);
        Err(known.map_or_else(|| format!("type {code}"), |(_, name)| (*name).to_owned()))
    }

    /// Values of a block, which have common scales, and the bytes that they take.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::F8E4M3 | Self::F8E5M2 => (1, 1),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            // Some take less than a byte.
            Self::Other(dtype) => (8, dtype.bitsize()),
        }
    }

    /// Bytes of `values` values; `None` if that is no whole number of bytes or blocks, or overflows.
    pub(crate) fn bytes(self, values: usize) -> Option<usize> {
        match self {
            Self::Other(dtype) => {
                let bits = values.checked_mul(dtype.bitsize())?;
                bits.is_multiple_of(8).then_some(bits / 8)
            }
            _ => {
                let (block, bytes) = self.block();
                values.is_multiple_of(block).then_some(values / block)?.checked_mul(bytes)
            }
        }
    }

    /// The candle type, for floats that candle computes with.
    pub(crate) fn float(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::BF16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// Whether values have to be decoded before they can be computed with.
    pub(crate) fn is_coded(self) -> bool {
        self.float().is_none() && !matches!(self, Self::Other(_))
    }
}

impl From<Dtype> for NumberFormat {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            Dtype::F8_E4M3 => Self::F8E4M3,
            Dtype::F8_E5M2 => Self::F8E5M2,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for NumberFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F8E4M3 => f.write_str("F8_E4M3"),
            Self::F8E5M2 => f.write_str("F8_E5M2"),
            Self::Other(dtype) => dtype.fmt(f),
            format => {
                let known = GGUF.iter().find(|(known, ..)| known == format);
                f.write_str(known.map_or("?", |(.., name)| name))
            }
        }
    }
}
