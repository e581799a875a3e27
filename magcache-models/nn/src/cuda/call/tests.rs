//! The kernels of `rows.cu` on a CPU, as `on_host.cpp` runs them, against candle's operations in f32.

use std::{fs, path::Path, process::Command};

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};
use half::{bf16, f16};
use tempfile::TempDir;

use super::{Argument, Call};
use crate::{
    RotaryTable,
    row_op::RowOp,
    testing::{largest, random},
};

const TYPES: [(DType, &str, f32); 3] =
    // The largest relative error of rounding to the type.
    [(DType::F32, "f32", 1e-6), (DType::F16, "f16", 1.0 / 2048.0), (DType::BF16, "bf16", 1.0 / 256.0)];

/// The compiled kernels, and the files that they exchange with the tests.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
        let mut compiler = Command::new("c++");
        compiler.args(["-std=c++17", "-O1", "-o"]).arg(folder.path().join("on_host"));
        let status = compiler.arg(sources.join("on_host.cpp")).status().expect("a C++ compiler");
        assert!(status.success(), "the kernels compile");
        Self(folder)
    }

    fn run(&self, call: &Call) -> Result<Tensor> {
        let folder = self.0.path();
        let file = |name: &str, x: &Tensor| -> Result<String> {
            let path = folder.join(name);
            fs::write(&path, bytes(x)?)?;
            Ok(path.display().to_string())
        };
        let (_, suffix, _) =
            TYPES.into_iter().find(|(dtype, ..)| *dtype == call.input.dtype()).expect("known");
        let output = folder.join("output");
        let mut command = Command::new(folder.join("on_host"));
        command.args([call.kernel, suffix, &call.warps.to_string(), &file("input", &call.input)?]);
        command.arg(&output);
        for (i, argument) in call.arguments.iter().enumerate() {
            command.arg(match argument {
                Argument::Floats(None) => "-".into(),
                Argument::Floats(Some(x)) | Argument::Own(x) => file(&format!("argument{i}"), x)?,
                Argument::Count(count) => count.to_string(),
                Argument::Size(size) => size.to_string(),
                Argument::Number(number) => number.to_string(),
            });
        }
        assert!(command.status()?.success(), "{command:?}");
        Tensor::from_raw_buffer(&fs::read(output)?, call.input.dtype(), call.input.dims(), &Device::Cpu)
    }

    /// Compares a kernel with the plain operation on the same values in f32.
    fn compare(&self, what: &str, op: &RowOp, x: &Tensor, added: Option<&Tensor>, wide: &RowOp) {
        let call = Call::of(op, x, added).expect("fits").unwrap_or_else(|| panic!("no kernel for {what}"));
        let ours = self.run(&call).expect("runs").to_dtype(DType::F32).expect("floats");
        let plain = wide.plain(&x.to_dtype(DType::F32).expect("floats"), added).expect("fits");
        let (_, _, rounding) = TYPES.into_iter().find(|(dtype, ..)| *dtype == x.dtype()).expect("known");
        let scale = largest(&plain).expect("floats");
        let values = |x: &Tensor| x.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
        for (ours, plain) in values(&ours).into_iter().zip(values(&plain)) {
            let limit = rounding * plain.abs() + 3e-6 * scale;
            assert!(
                (ours - plain).abs() <= limit,
                "{what} {:?} {:?}: {ours} for {plain}",
                x.dtype(),
                x.shape()
            );
        }
    }
}

/// The values that a kernel may read: from the first one to the end of the tensor, or of what a view is of.
fn bytes(x: &Tensor) -> Result<Vec<u8>> {
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("a tensor is not on the CPU") };
    let all: Vec<u8> = match storage {
        CpuStorage::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::F16(values) => values.iter().copied().flat_map(f16::to_le_bytes).collect(),
        CpuStorage::BF16(values) => values.iter().copied().flat_map(bf16::to_le_bytes).collect(),
        _ => candle_core::bail!("a tensor of {:?}", x.dtype()),
    };
    let size = x.dtype().size_in_bytes();
    let own =
        layout.contiguous_offsets().map_or(layout.start_offset()..all.len() / size, |(from, to)| from..to);
    Ok(all[own.start * size..own.end * size].to_vec())
}

/// Fewer pairs than lanes, a number that they do not divide, and several for each.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 2), (2, 5, 24), (2, 3, 70), (1, 2, 384)];

#[test]
fn norms_and_gates_are_their_compositions() {
    let host = Host::new();
    for (dtype, ..) in TYPES {
        for (batch, tokens, channels) in SHAPES {
            let shape = [batch, tokens, channels];
            let x = ((random(&shape).unwrap() * 2.0).unwrap() + 3.0).unwrap().to_dtype(dtype).unwrap();
            let residual = random(&shape).unwrap().to_dtype(dtype).unwrap();
            let wide = residual.to_dtype(DType::F32).unwrap();
            let vector = random(&[channels]).unwrap();
            for (samples, places) in [(1, 1), (batch, 1), (1, tokens), (batch, tokens)] {
                let rows = random(&[samples, places, 3 * channels]).unwrap().chunk(3, 2).unwrap();
                let op = RowOp::Modulate { shift: &rows[0], scale: &rows[1], eps: 1e-3 };
                host.compare("modulate", &op, &x, None, &op);
                for added in [None, Some(&vector)] {
                    let op = RowOp::GatedAdd { residual: &residual, gate: &rows[2] };
                    let of_wide = RowOp::GatedAdd { residual: &wide, gate: &rows[2] };
                    host.compare("gated add", &op, &x, added, &of_wide);
                }
            }
            let weight = random(&[channels]).unwrap();
            let op = RowOp::LayerNorm { weight: &weight, bias: &vector, eps: 1e-3 };
            host.compare("layer norm", &op, &x, None, &op);
            for added in [None, Some(&vector)] {
                let (op, of_wide) = (RowOp::Add { residual: &residual }, RowOp::Add { residual: &wide });
                host.compare("add", &op, &x, added, &of_wide);
                host.compare("gelu", &RowOp::Gelu, &x, added, &RowOp::Gelu);
                host.compare("bias", &RowOp::Bias, &x, added, &RowOp::Bias);
            }
        }
    }
}

#[test]
fn norms_of_queries_and_their_turns_are_their_compositions() {
    let host = Host::new();
    let (tokens, half, heads) = (5, 9, 4);
    let channels = heads * 2 * half;
    let (cos, sin): (Vec<f32>, Vec<f32>) =
        (0..tokens * half).map(|i| (i as f32 * 0.37).sin_cos()).map(|(sin, cos)| (cos, sin)).unzip();
    let table = RotaryTable::new(cos, &sin, tokens, &Device::Cpu).unwrap();
    let added = random(&[channels]).unwrap();
    for (dtype, ..) in TYPES {
        let x = random(&[2, tokens, channels]).unwrap().to_dtype(dtype).unwrap();
        for added in [None, Some(&added)] {
            // One norm over all heads, one for each, and one for two.
            for width in [channels, 2 * half, 4 * half] {
                let weight = random(&[width]).unwrap();
                let op = RowOp::RmsNorm { weight: &weight, eps: 1e-3 };
                host.compare("rms norm", &op, &x, added, &op);
                let op = RowOp::Turn { weight: &weight, table: &table, eps: 1e-3 };
                host.compare("turn", &op, &x, added, &op);
            }
        }
    }
}

#[test]
fn what_does_not_fit_has_no_kernel() -> Result<()> {
    let x = random(&[2, 3, 8])?;
    let none = |op: RowOp, x: &Tensor, added: Option<&Tensor>| {
        Ok::<_, candle_core::Error>(Call::of(&op, x, added)?.is_none())
    };
    let (odd, half, short) = (random(&[2, 3, 7])?, x.to_dtype(DType::BF16)?, random(&[2, 2, 8])?);
    assert!(none(RowOp::Gelu, &odd, None)? && none(RowOp::Gelu, &x.to_dtype(DType::F64)?, None)?);
    assert!(none(RowOp::Gelu, &x, Some(&random(&[4])?))?);
    assert!(
        none(RowOp::Add { residual: &half }, &x, None)? && none(RowOp::Add { residual: &short }, &x, None)?
    );
    assert!(none(RowOp::GatedAdd { residual: &x, gate: &short }, &x, None)?);
    assert!(none(RowOp::Modulate { shift: &short, scale: &x, eps: 0.0 }, &x, None)?);
    assert!(none(RowOp::RmsNorm { weight: &random(&[3])?, eps: 0.0 }, &x, None)?);
    // A view that begins in the middle of a pair is copied.
    let view = random(&[19])?.narrow(0, 1, 18)?;
    let call = Call::of(&RowOp::Bias, &view, None)?.expect("a kernel");
    assert_eq!(call.input.layout().start_offset(), 0);
    Ok(())
}
