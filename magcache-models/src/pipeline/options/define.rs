//! Everything derived from the list of options: the tables, the names, and the conversions between them.

/// The type of an option in a [`Request`](crate::pipeline::Request).
macro_rules! value {
    (always $type:ty) => { $type };
    (optional $type:ty) => { Option<$type> };
    (file $type:ty) => { Option<std::sync::Arc<$type>> };
}

/// The type of an option in [`SamplingOptions`](super::SamplingOptions).
macro_rules! written {
    (file $type:ty) => {
        PathBuf
    };
    ($mode:ident $type:ty) => {
        $type
    };
}

/// An option if it was set, else that of another request.
macro_rules! resolved {
    (always, $own:expr, $base:expr) => {
        $own.unwrap_or($base)
    };
    (optional, $own:expr, $base:expr) => {
        $own.or($base)
    };
    (file, $own:expr, $base:expr) => {
        $base
    };
}

/// The value of a request as an option that was set.
macro_rules! set {
    (always, $value:expr) => {
        Some($value)
    };
    (optional, $value:expr) => {
        $value
    };
    (file, $value:expr) => {
        None
    };
}

/// The value of an option, in words, where only some pipelines take it.
macro_rules! given {
    (always, $value:expr) => {
        None
    };
    (optional, $value:expr) => {
        $value.as_ref().map(|value| format!("is {value}"))
    };
    (file, $value:expr) => {
        $value.as_ref().map(|_| "is given".to_owned())
    };
}

/// The file of an option, if it is a picture.
macro_rules! file {
    (file, $file:expr) => {
        $file
    };
    ($mode:ident, $file:expr) => {
        None
    };
}

/// The given expression, or else the default.
macro_rules! or {
    ($written:tt, $other:expr) => {
        $written
    };
    (, $other:expr) => {
        $other
    };
}

/// Defines [`SamplingOptions`](super::SamplingOptions), [`SamplingOption`](super::SamplingOption) and
/// [`Request`](crate::pipeline::Request) from a list. A line is the key, then
///
/// - `always` (every model has a default), `optional` (only some pipelines take it) or `file` (likewise, but
///   a file that is read), and the type of the value;
/// - the names under which a calibration records it, one per part of a list; if empty, it is no condition;
/// - the hint for a model that does not take it.
///
/// The doc comment above a line describes the option in the reference and, unless `arg` overrides it, in the
/// help.
macro_rules! options {
    ($(
        $(#[doc = $doc:tt])+
        $(#[schemars($($schema:tt)*)])?
        $(#[arg($($arg:tt)*)])+
        $name:ident: $mode:ident $type:ty $(, conditions $conditions:tt)? $(, otherwise $hint:tt)?;
    )+) => {
        /// What a request may say: the table `[sampling]` of a configuration, and flags with the feature
        /// `clap`. What is not set is up to whoever is asked next: the file, then the model.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
        #[cfg_attr(feature = "clap", derive(clap::Args))]
        #[serde(deny_unknown_fields, default)]
        pub struct SamplingOptions {$(
            $(#[doc = $doc])+
            $(#[schemars($($schema)*)])?
            $(#[cfg_attr(feature = "clap", arg($($arg)*))])+
            pub $name: Option<written!($mode $type)>,
        )+}

        /// One generation.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Request {$(
            $(#[doc = $doc])+
            pub $name: value!($mode $type),
        )+}

        /// The name of an option.
        #[expect(non_camel_case_types, reason = "a variant is the key, letter for letter")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum SamplingOption {$(
            $(#[doc = $doc])+
            $name,
        )+}

        impl SamplingOption {
            /// Every option.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The key in a file.
            pub fn key(self) -> &'static str {
                match self {$( Self::$name => stringify!($name), )+}
            }

            /// The names under which a calibration records it, one per part of its value; empty if it is no
            /// condition.
            pub fn conditions(self) -> &'static [&'static str] {
                match self {$( Self::$name => &or!($($conditions)?, []), )+}
            }

            /// Whether every model has a default for it, so that every pipeline takes it.
            pub fn is_always_set(self) -> bool {
                match self {$( Self::$name => stringify!($mode) == "always", )+}
            }

            /// The hint for a model that does not take it.
            pub(in crate::pipeline) fn hint(self) -> &'static str {
                match self {$( Self::$name => or!($($hint)?, "remove it"), )+}
            }
        }

        impl SamplingOptions {
            /// These options, with those of `other` where unset.
            #[must_use]
            pub fn over(self, other: Self) -> Self {
                Self {$( $name: self.$name.or(other.$name), )+}
            }

            /// `base` with the options set here; what was read from its files stays, because options only
            /// name them.
            pub fn request(self, base: Request) -> Request {
                Request {$( $name: resolved!($mode, self.$name, base.$name), )+}
            }

            /// Checks that every option that all models need is set.
            ///
            /// # Errors
            /// The key that is missing.
            pub(in crate::pipeline) fn complete(&self) -> Result<(), &'static str> {
                $( if stringify!($mode) == "always" && self.$name.is_none() { return Err(stringify!($name)); } )+
                Ok(())
            }

            /// The files that are read.
            pub fn files(&self) -> Vec<(SamplingOption, &PathBuf)> {
                let all = [$( (SamplingOption::$name, file!($mode, self.$name.as_ref())), )+];
                all.into_iter().filter_map(|(option, file)| Some((option, file?))).collect()
            }

            /// The same, mutable.
            pub fn files_mut(&mut self) -> Vec<&mut PathBuf> {
                [$( file!($mode, self.$name.as_mut()), )+].into_iter().flatten().collect()
            }
        }

        impl Request {
            pub(in crate::pipeline) fn empty() -> Self {
                Self {$( $name: Default::default(), )+}
            }

            /// Options equivalent to this request, without its files.
            pub fn options(&self) -> SamplingOptions {
                let request = self.clone();
                SamplingOptions {$( $name: set!($mode, request.$name), )+}
            }

            /// The options set here that not every pipeline takes, with their values in words.
            pub(in crate::pipeline) fn given(&self) -> Vec<(SamplingOption, String)> {
                let all: [(_, Option<String>); _] = [$( (SamplingOption::$name, given!($mode, self.$name)), )+];
                all.into_iter().filter_map(|(option, value)| Some((option, value?))).collect()
            }
        }
    };
}
