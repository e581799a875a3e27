//! Makes a struct storable from a single list of its fields.

/// Implements [`Field`](crate::snapshot::Field) for a struct of storable fields:
/// `fields!(MyState { anchor, accumulated })`.
///
/// With `given { … }` it implements [`Persist`](crate::snapshot::Persist) instead, for a struct some of whose
/// fields are configuration and stay unchanged. Every field must be named.
#[macro_export]
macro_rules! fields {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::snapshot::Field for $type {
            fn write(&self, to: &mut $crate::snapshot::Writer<'_>) {
                let Self { $($field),* } = self;
                $(to.field(::std::stringify!($field), $field);)*
            }

            fn read(from: &$crate::snapshot::Reader<'_>) -> ::std::result::Result<Self, $crate::snapshot::SnapshotError> {
                ::std::result::Result::Ok(Self { $($field: from.field(::std::stringify!($field))?),* })
            }

            fn tensor_bytes(&self) -> usize {
                let Self { $($field),* } = self;
                0 $(+ $crate::snapshot::Persist::bytes($field))*
            }

            fn whole_tensor_bytes(&self) -> usize {
                let Self { $($field),* } = self;
                0 $(+ $crate::snapshot::Persist::whole_bytes($field))*
            }
        }
    };
    ($type:ident { $($field:ident),* $(,)? } given { $($given:ident),* $(,)? }) => {
        impl $crate::snapshot::Persist for $type {
            fn save(&self, to: &mut $crate::snapshot::Writer<'_>) {
                let Self { $($field,)* $($given: _),* } = self;
                $(to.field(::std::stringify!($field), $field);)*
            }

            fn load(&mut self, from: &$crate::snapshot::Reader<'_>) -> ::std::result::Result<(), $crate::snapshot::SnapshotError> {
                $(self.$field = from.field(::std::stringify!($field))?;)*
                ::std::result::Result::Ok(())
            }

            fn bytes(&self) -> usize {
                let Self { $($field,)* $($given: _),* } = self;
                0 $(+ $crate::snapshot::Persist::bytes($field))*
            }

            fn whole_bytes(&self) -> usize {
                let Self { $($field,)* $($given: _),* } = self;
                0 $(+ $crate::snapshot::Persist::whole_bytes($field))*
            }
        }
    };
}
