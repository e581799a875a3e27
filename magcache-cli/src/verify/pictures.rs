//! Pictures: files as Pillow reads and scales them, and the pixels that the processors of diffusers and
//! transformers make of them.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use magcache_models::{
    clip::ClipImageProcessor,
    image::{Filter, Picture},
};
use serde::Deserialize;
use serde_json::Value;

use super::{call::Call, case::Case, report::CaseReport};

#[derive(Deserialize)]
struct Args {
    #[serde(flatten)]
    made: Made,
    /// The largest difference: two correct decoders of JPEG round differently.
    tolerance: f64,
    /// The largest mean difference, where there are values enough for one.
    mean: Option<f64>,
}

/// How a result is made.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Made {
    /// A file of the case's folder.
    Read(String),
    /// `picture` in another size.
    Resize { filter: Scaling, size: [usize; 2] },
    /// `picture` cut and scaled to width and height.
    Cover([usize; 2]),
    /// The pixels of `picture` as a frame of width and height.
    Frame([usize; 2]),
    /// The pixels of `picture` for CLIP, with this configuration of its processor.
    Clip(Value),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scaling {
    Bilinear,
    Bicubic,
    Lanczos,
}

pub(super) fn check(case: &Case, report: &mut CaseReport) -> Result<()> {
    case.compare_calls(report, |call, report| {
        let Args { made, tolerance, mean } = call.args()?;
        let got = make(call, &made)?;
        for (output, key) in &call.outputs {
            let want = case.tensor(key)?;
            report.tensors(&call.name, output, &got, want, tolerance)?;
            if let Some(mean) = mean.filter(|_| got.dims() == want.dims()) {
                let wide = |x: &Tensor| x.to_dtype(DType::F64);
                let own = (wide(&got)? - wide(want)?)?.abs()?.mean_all()?.to_scalar()?;
                report.numbers(&call.name, "mean difference", &[own], &[0.0], mean);
            }
        }
        Ok(())
    })
}

/// Bytes `[height, width, 3]`, or pixels as a network takes them.
fn make(call: Call<'_>, made: &Made) -> Result<Tensor> {
    let device = &Device::Cpu;
    let given = || picture(call.required("picture")?);
    let result = match made {
        Made::Read(file) => Picture::read(call.case.path().join(file))?,
        Made::Resize { filter, size: [width, height] } => {
            let filter = match filter {
                Scaling::Bilinear => Filter::Bilinear,
                Scaling::Bicubic => Filter::Bicubic,
                Scaling::Lanczos => Filter::Lanczos,
            };
            given()?.resize(*width, *height, filter)?
        }
        Made::Cover([width, height]) => given()?.cover(*width, *height)?,
        Made::Frame([width, height]) => return Ok(given()?.pixels(*width, *height, device)?),
        Made::Clip(processor) => {
            let processor = ClipImageProcessor::from_value(processor, &call.case.place)?;
            return Ok(processor.pixel_values(&given()?, device)?);
        }
    };
    Ok(Tensor::from_slice(result.rgb8(), (result.height(), result.width(), 3), device)?)
}

/// A recorded picture, bytes `[height, width, 3]`.
fn picture(tensor: &Tensor) -> Result<Picture> {
    let (height, width, _) = tensor.dims3()?;
    Ok(Picture::from_rgb8(width, height, tensor.flatten_all()?.to_vec1()?)?)
}
