//! Reference cases: what they hold is computed again and compared.

pub mod tables;
