//! `OWNER/NAME[@REVISION][:VARIANT]`.

use std::fmt;

/// A model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `OWNER/NAME`.
    pub repo: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// Which of several files or precisions.
    pub variant: Option<String>,
    /// What of it is wanted.
    pub part: Part,
}

/// What of a repository is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All that a run needs.
    #[default]
    Model,
    /// One file of weights, which the variant names if there are several.
    File,
    /// Its tokenizers.
    Tokenizer,
}

/// What a name may begin with, to tell it from a path.
const PREFIX: &str = "hf:";

impl Name {
    /// The branch of names without a revision.
    pub const MAIN: &'static str = "main";

    /// The model that was typed; `None` for anything that is no such name.
    pub fn parse(typed: &str) -> Option<Self> {
        let rest = typed.strip_prefix(PREFIX).unwrap_or(typed);
        let (rest, variant) = match rest.split_once(':') {
            Some((rest, variant)) => (rest, Some(variant)),
            None => (rest, None),
        };
        let (repo, revision) = rest.split_once('@').unwrap_or((rest, Self::MAIN));
        let (owner, name) = repo.split_once('/')?;
        let word = |text: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !text.is_empty() && text.chars().all(known) && !text.starts_with('.') && !text.contains("..")
        };
        let of_revision = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let revision_fits =
            !revision.is_empty() && revision.chars().all(of_revision) && !revision.contains("..");
        let variant_fits = variant.is_none_or(|variant| !variant.is_empty());
        (word(owner) && word(name) && revision_fits && variant_fits).then(|| Self {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
            variant: variant.map(str::to_owned),
            part: Part::Model,
        })
    }

    /// The same name for some of it.
    #[must_use]
    pub fn of(self, part: Part) -> Self {
        Self { part, ..self }
    }

    /// Whether it was typed with `hf:`, so that it can be nothing else.
    pub fn is_explicit(typed: &str) -> bool {
        typed.starts_with(PREFIX)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if self.revision != Self::MAIN {
            write!(f, "@{}", self.revision)?;
        }
        self.variant.iter().try_for_each(|variant| write!(f, ":{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_revision_and_a_variant() {
        let parsed = |typed: &str| Name::parse(typed).map(|n| (n.repo, n.revision, n.variant));
        let plain = ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers".to_owned(), "main".to_owned(), None);
        assert_eq!(parsed("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), Some(plain.clone()));
        assert_eq!(parsed("hf:Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), Some(plain));
        let all = ("a/b".to_owned(), "refs/pr/3".to_owned(), Some("Q4_K_M".to_owned()));
        assert_eq!(parsed("a/b@refs/pr/3:Q4_K_M"), Some(all));
        assert_eq!(Name::parse("a/b@v1:q8").map(|name| name.to_string()).as_deref(), Some("a/b@v1:q8"));
        for other in
            ["model", "/a/b", "a/b/c", "./a", "a/..", "../b", "a/b@", "a/b:", "a b/c", "a/b@../c", ""]
        {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
