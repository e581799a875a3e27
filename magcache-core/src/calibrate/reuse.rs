//! Rehearsed runs as tensors. All are f64, with NaN for missing values.

#![expect(clippy::disallowed_methods, reason = "the tensors are a file's, on the host")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::table::{RecordingError, Result, shape};
use crate::{
    Window,
    planner::{PartialStep, ReuseErrors, StepErrors},
};

const SOURCES: &str = "reuse.sources";
const PRODUCTS: &str = "reuse.products";
const GROWTH: &str = "reuse.growth";
const COSINES: &str = "reuse.cosines";
const PIXELS: &str = "reuse.pixels";
const COST: &str = "reuse.cost";
const WINDOWS: &str = "reuse.windows";
const WINDOW_COSTS: &str = "reuse.window_costs";
const WINDOW_PRODUCTS: &str = "reuse.window_products";

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
            products.extend(widened(&step.products, n, reach));
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
    insert_windows(runs, steps, reach, out)
}

/// Adds what was measured of steps at which some blocks run, which is the same windows in all runs.
fn insert_windows(
    runs: &[ReuseErrors],
    steps: usize,
    reach: usize,
    out: &mut HashMap<String, Tensor>,
) -> Result<()> {
    let Some(windows) = runs.first().map(|run| &run.windows).filter(|windows| !windows.is_empty()) else {
        return Ok(());
    };
    let (n, tried) = (runs.len(), windows.len());
    let ends = windows.iter().flat_map(|own| [own.window.front as f64, own.window.back as f64]);
    let costs = runs.iter().flat_map(|run| run.windows.iter().map(|own| own.cost));
    let nothing = StepErrors::default();
    let mut products = Vec::with_capacity(n * steps * tried * reach * reach);
    for (run, i) in runs.iter().flat_map(|run| (0..steps).map(move |i| (run, i))) {
        let step = run.steps.get(i).unwrap_or(&nothing);
        for window in 0..tried {
            let own = step.windows.get(window).map_or(&[][..], Vec::as_slice);
            products.extend(widened(own, step.sources.len(), reach));
        }
    }
    let dims = (n, steps, tried, reach, reach);
    out.insert(WINDOWS.into(), Tensor::from_vec(ends.collect::<Vec<_>>(), (tried, 2), &Device::Cpu)?);
    out.insert(WINDOW_COSTS.into(), Tensor::from_vec(costs.collect::<Vec<_>>(), (n, tried), &Device::Cpu)?);
    out.insert(WINDOW_PRODUCTS.into(), Tensor::from_vec(products, dims, &Device::Cpu)?);
    Ok(())
}

/// A square matrix of `n` rows as one of `reach` rows, with NaN for what is missing.
fn widened(products: &[f64], n: usize, reach: usize) -> impl Iterator<Item = f64> {
    let product = move |a: usize, b: usize| products.get(a * n + b).filter(|_| a < n && b < n).copied();
    (0..reach * reach).map(move |place| product(place / reach, place % reach).unwrap_or(f64::NAN))
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
    // Rows of runs that were not tried with windows have none.
    let tried = match tensors.get(WINDOWS).map(Tensor::dims) {
        Some([tried, 2]) => *tried,
        Some(_) | None => 0,
    };
    let of_windows = |name: &str, dims: &[usize]| match tried {
        0 => Ok(Vec::new()),
        _ => values(name, dims),
    };
    let ends = of_windows(WINDOWS, &[tried, 2])?;
    let costs = of_windows(WINDOW_COSTS, &[runs, tried])?;
    let of_window = of_windows(WINDOW_PRODUCTS, &[runs, steps, tried, reach, reach])?;
    let step = |place: usize| {
        let own = sources.iter().skip(place * reach).take(reach).filter(|source| !source.is_nan());
        let sources: Vec<usize> = own.map(|source| *source as usize).collect();
        let square = |all: &[f64], place: usize| -> Vec<f64> {
            let own = all.iter().skip(place * reach * reach).take(reach * reach);
            own.filter(|product| !product.is_nan()).copied().collect()
        };
        StepErrors {
            sources,
            products: square(&products, place),
            windows: (0..tried).map(|window| square(&of_window, place * tried + window)).collect(),
        }
    };
    let window = |run: usize, place: usize| {
        let end = |side: usize| ends.get(2 * place + side).map_or(0, |blocks| *blocks as usize);
        let cost = costs.get(run * tried + place).copied().unwrap_or(1.0);
        PartialStep { window: Window { front: end(0), back: end(1) }, cost }
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
            windows: (0..tried).map(|place| window(run, place)).collect(),
        }
    };
    Ok((0..runs).map(run).collect())
}
