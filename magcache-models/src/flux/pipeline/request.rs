//! Whether a request can be served.

use super::generation::{Family, ImageUse};
use crate::pipeline::{Request, Result, still};

/// Checks everything about a request that does not need weights.
pub(super) fn check(request: &Request, family: &dyn Family) -> Result<()> {
    family.guidance(request)?;
    if let Some(picture) = &request.image
        && family.image_use(request) == ImageUse::Reference
    {
        family.check_reference(picture)?;
    }
    still::check(request)
}
