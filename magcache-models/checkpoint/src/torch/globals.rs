//! The classes and functions that a state dictionary may name.

use safetensors::Dtype;

use super::Fault;

/// What a pickle may name. Everything else is refused, and the error names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    /// `torch.Size`, a tuple.
    Size,
    /// `torch.Tensor` or `Parameter` as the type of a rebuilt tensor.
    TensorType,
    /// `_rebuild_tensor(storage, offset, size, stride, ...)`, and its second version.
    RebuildTensor,
    /// `_rebuild_tensor_v3`: for types without a storage class of their own, with the type as seventh
    /// argument.
    RebuildTensorV3,
    /// `_rebuild_parameter(tensor, requires_grad, hooks)`.
    RebuildParameter,
    /// `_rebuild_from_type_v2(function, type, arguments, state)`.
    RebuildFromType,
    /// `torch.FloatStorage` and its like.
    Storage(Dtype),
    /// A storage of bytes, whose type the tensor states.
    UntypedStorage,
    /// `torch.float32` and its like.
    Dtype(Dtype),
}

impl Global {
    pub(super) fn named(module: &str, name: &str) -> Result<Self, Fault> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch", "Size") => Some(Self::Size),
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Some(Self::TensorType),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_tensor_v3") => Some(Self::RebuildTensorV3),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch._tensor", "_rebuild_from_type_v2") => Some(Self::RebuildFromType),
            ("torch.storage", "UntypedStorage") => Some(Self::UntypedStorage),
            ("torch" | "torch.cuda", _) => {
                storage(name).map(Self::Storage).or_else(|| dtype(name).map(Self::Dtype))
            }
            _ => None,
        };
        global.ok_or_else(|| Fault::Code(format!("{module}.{name}")))
    }
}

fn storage(class: &str) -> Option<Dtype> {
    Some(match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        _ => return None,
    })
}
