//! Metadata of models and strategies, and the registries that hold it.

mod describe;
pub(crate) mod info;
pub(crate) mod model;

pub use describe::Describe;
pub use info::{ForecastInfo, ProfileInfo};
pub(crate) use model::FORWARD;

use crate::{ConfigError, ModelMeta, StrategyInfo, error::nearest};

inventory::collect!(ModelMeta);
inventory::collect!(StrategyInfo);
inventory::collect!(ForecastInfo);
inventory::collect!(ProfileInfo);

/// Every registered model, by name.
pub fn models() -> Vec<&'static ModelMeta> {
    sorted(|m: &ModelMeta| &m.name)
}

/// Every registered strategy, by name.
pub fn strategies() -> Vec<&'static StrategyInfo> {
    sorted(|s: &StrategyInfo| s.name)
}

/// Every registered forecast, by name.
pub fn forecasts() -> Vec<&'static ForecastInfo> {
    sorted(|f: &ForecastInfo| f.name)
}

/// Every registered profile, by name.
pub fn profiles() -> Vec<&'static ProfileInfo> {
    sorted(|p: &ProfileInfo| p.name)
}

/// The registered model of this name.
pub fn model(name: &str) -> Result<&'static ModelMeta, ConfigError> {
    let known = models();
    known.iter().find(|m| m.name == name).copied().ok_or_else(|| ConfigError::UnknownName {
        place: "model".to_owned(),
        kind: "model",
        name: name.to_owned(),
        nearest: nearest(name, known.iter().map(|m| &*m.name)),
    })
}

fn sorted<T: inventory::Collect, F: Fn(&T) -> &str>(name: F) -> Vec<&'static T>
where
    &'static inventory::iter<T>: Sized,
    inventory::iter<T>: IntoIterator<Item = &'static T>,
{
    let mut all: Vec<&'static T> = inventory::iter::<T>.into_iter().collect();
    all.sort_by(|a, b| name(a).cmp(name(b)));
    all
}
