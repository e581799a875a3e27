//! Cargo asks for a build script where `links` is set, which is all that this is for: two versions of the
//! core in one program would be two registries that know nothing of each other, and cargo refuses two
//! packages with the same `links`, naming both.

fn main() {}
