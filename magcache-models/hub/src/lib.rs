//! Models by name from the Hugging Face hub.
//!
//! [`Hub::fetch`] gives the folder of a model: from the cache if all of it is there, which needs no network,
//! or after downloading what is missing and nothing else. The cache is laid out as the hub's own client does
//! it (`blobs`, `snapshots`, `refs`), so that both find each other's files. Names, addresses and the token
//! are those of the crate `hf-hub`; transfers are done here, because that crate neither checks what it
//! received nor leaves out what is there already.

mod choice;
mod error;
mod hub;
mod listing;
mod local;
mod name;
mod transfer;

pub use error::HubError;
pub use hub::{Fetched, Hub, Progress};
pub use local::{Downloaded, downloaded, remove};
pub use name::{Name, Part};

magcache_core::hints!(HubError);
