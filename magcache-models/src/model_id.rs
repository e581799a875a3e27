//! Identity of the loaded model that prepared something.

use std::sync::Arc;

/// Distinguishes what one loaded model prepared from what another did, such as the second expert of Wan 2.2.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelId(Arc<()>);

impl PartialEq for ModelId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
