//! What was done with an adapter.

use std::fmt;

use super::{Adapter, Part};

/// An adapter that was applied.
#[derive(Clone, Debug)]
pub struct AdapterReport {
    /// The file and its strength.
    pub adapter: Adapter,
    /// The network that it was applied to.
    pub part: Part,
    /// The number of the expert.
    pub expert: usize,
    /// Modules that get the product of two matrices.
    pub pairs: usize,
    /// Tensors that get a difference as it is.
    pub differences: usize,
    /// Smallest and largest rank.
    pub ranks: Option<(usize, usize)>,
    /// Smallest and largest `alpha / rank`.
    pub scales: Option<(f64, f64)>,
    /// Tensors without a place in the model, which were left out on request.
    pub skipped: Vec<String>,
    /// Tensors for text encoders that the model does not have, which are left out.
    pub of_encoders: usize,
    /// SHA-256 of what is added, the same for all spellings of one adapter.
    pub sha256: String,
}

impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at strength {}", self.adapter.path.display(), self.adapter.strength)?;
        match self.part {
            Part::Network => write!(f, ": ")?,
            part => write!(f, ", {}: ", part.place())?,
        }
        write!(f, "{} pairs", self.pairs)?;
        if let Some((least, most)) = self.ranks {
            write!(f, " of rank {least}")?;
            if most > least {
                write!(f, " to {most}")?;
            }
        }
        if let Some((least, most)) = self.scales {
            write!(f, ", scale {least}")?;
            if most > least {
                write!(f, " to {most}")?;
            }
        }
        if self.differences > 0 {
            write!(f, ", {} differences", self.differences)?;
        }
        Ok(())
    }
}

impl AdapterReport {
    /// Whether the file has nothing for this network.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs + self.differences + self.skipped.len() == 0
    }

    /// What the user should know of it.
    pub fn warnings(&self) -> Vec<String> {
        let (file, mut warnings) = (self.adapter.path.display(), Vec::new());
        if self.of_encoders > 0 {
            warnings.push(format!(
                "{file}: {} tensors for text encoders that this model does not have are left out",
                self.of_encoders
            ));
        }
        if let Some(first) = self.skipped.first() {
            let count = self.skipped.len();
            warnings.push(format!(
                "{file}: {count} tensors have no place in {} and are left out: {first}, ...",
                self.part.place()
            ));
        }
        warnings
    }
}
