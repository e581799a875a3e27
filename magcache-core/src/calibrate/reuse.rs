//! Rehearsed runs as tensors. All are f64, with NaN for missing values.

#![expect(clippy::disallowed_methods, reason = "the tensors are a file's, on the host")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::table::{RecordingError, Result, shape};
use crate::planner::{ReuseErrors, StepErrors};

const SOURCES: &str = "reuse.sources";
const PRODUCTS: &str = "reuse.products";
const GROWTH: &str = "reuse.growth";
const COSINES: &str = "reuse.cosines";
const PIXELS: &str = "reuse.pixels";
const COST: &str = "reuse.cost";

/// Adds the tensors of rehearsed runs, if there are any.
pub(super) fn insert(runs: &[ReuseErrors], out: &mut HashMap<String, Tensor>) -> Result<()> {
    let steps = runs.iter().map(|run| run.steps.len()).max().unwrap_or(0);
    let reach = runs.iter().flat_map(|run| &run.steps).map(|step| step.sources.len()).max().unwrap_or(0);
    if runs.is_empty() || reach == 0 {
        return Ok(());
    }
    let nothing = StepErrors::default();
    let (mut sources, mut products, mut growth) = (Vec::new(), Vec::new(), Vec::new());
    let mut cosines = Vec::new();
    for run in runs {
        for i in 0..steps {
            let step = run.steps.get(i).unwrap_or(&nothing);
            let n = step.sources.len();
            sources.extend((0..reach).map(|a| step.sources.get(a).map_or(f64::NAN, |source| *source as f64)));
            let product = |a: usize, b: usize| {
                if a < n && b < n {
                    step.products.get(a * n + b).copied().unwrap_or(f64::NAN)
                } else {
                    f64::NAN
                }
            };
            products.extend((0..reach * reach).map(|place| product(place / reach, place % reach)));
            let place = |step: usize| run.growth.iter().position(|(at, _)| *at == step);
            let own = place(i).and_then(|own| run.growth.get(own));
            growth.push(own.map_or(f64::NAN, |(_, growth)| *growth));
            cosines.extend((0..steps).map(|other| {
                let pair = place(i).zip(place(other));
                let own = pair.and_then(|(a, b)| run.cosines.get(a * run.growth.len() + b));
                own.copied().unwrap_or(f64::NAN)
            }));
        }
    }
    let each = |of: fn(&ReuseErrors) -> f64| {
        Tensor::from_iter(runs.iter().map(of).collect::<Vec<_>>(), &Device::Cpu)
    };
    let n = runs.len();
    out.insert(SOURCES.into(), Tensor::from_vec(sources, (n, steps, reach), &Device::Cpu)?);
    out.insert(PRODUCTS.into(), Tensor::from_vec(products, (n, steps, reach, reach), &Device::Cpu)?);
    out.insert(GROWTH.into(), Tensor::from_vec(growth, (n, steps), &Device::Cpu)?);
    out.insert(COSINES.into(), Tensor::from_vec(cosines, (n, steps, steps), &Device::Cpu)?);
    out.insert(PIXELS.into(), each(|run| run.pixels)?);
    out.insert(COST.into(), each(|run| run.cost)?);
    Ok(())
}

/// Reads the runs that [`insert`] added; empty if it added nothing.
pub(super) fn read(tensors: &HashMap<String, Tensor>) -> Result<Vec<ReuseErrors>> {
    let Some(sources) = tensors.get(SOURCES) else { return Ok(Vec::new()) };
    let [runs, steps, reach] = *sources.dims() else {
        return Err(shape(SOURCES, sources, "[runs, steps, reach]".into()));
    };
    let values = |name: &str, dims: &[usize]| -> Result<Vec<f64>> {
        let tensor = tensors.get(name).ok_or_else(|| RecordingError::Missing(name.to_owned()))?;
        if tensor.dims() != dims {
            return Err(shape(name, tensor, format!("{dims:?}")));
        }
        Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    };
    let sources = values(SOURCES, &[runs, steps, reach])?;
    let products = values(PRODUCTS, &[runs, steps, reach, reach])?;
    let growth = values(GROWTH, &[runs, steps])?;
    // Rows of before cosines were measured have none.
    let cosines =
        if tensors.contains_key(COSINES) { values(COSINES, &[runs, steps, steps])? } else { Vec::new() };
    let (pixels, cost) = (values(PIXELS, &[runs])?, values(COST, &[runs])?);
    let step = |place: usize| {
        let own = sources.iter().skip(place * reach).take(reach).filter(|source| !source.is_nan());
        let sources: Vec<usize> = own.map(|source| *source as usize).collect();
        let own = products.iter().skip(place * reach * reach).take(reach * reach);
        StepErrors { sources, products: own.filter(|product| !product.is_nan()).copied().collect() }
    };
    let run = |run: usize| {
        let own = growth.iter().skip(run * steps).take(steps).copied().enumerate();
        ReuseErrors {
            steps: (0..steps).map(|i| step(run * steps + i)).collect(),
            growth: own.filter(|(_, growth)| !growth.is_nan()).collect(),
            cosines: cosines
                .iter()
                .skip(run * steps * steps)
                .take(steps * steps)
                .filter(|cosine| !cosine.is_nan())
                .copied()
                .collect(),
            pixels: pixels.get(run).copied().unwrap_or(1.0),
            cost: cost.get(run).copied().unwrap_or(0.0),
        }
    };
    Ok((0..runs).map(run).collect())
}
