//! Toy models and the conformance kit.
