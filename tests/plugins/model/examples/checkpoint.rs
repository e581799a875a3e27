//! Writes a checkpoint of the mini model: `cargo run --release --example checkpoint -- DIR`.

#[path = "../tests/support/mod.rs"]
mod support;

fn main() -> candle_core::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "mini".to_owned());
    support::write_checkpoint(folder.as_ref())
}
