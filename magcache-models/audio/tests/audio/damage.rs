//! Bytes that are wrong anywhere in a file: samples or an error, in bounded time and space.

use std::fs;

use magcache_audio::{SoundFile, SoundTrack};

use crate::support::{MONO, click, file, fixture};

/// A sequence that is the same everywhere (Knuth's multiplier).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % sides as u64) as usize
    }
}

#[test]
fn no_bytes_make_it_panic_or_go_on_forever() {
    let names = ["click.mp3", "click.m4a", "alac.m4a", "click.aac", "click.ogg", "click.flac", "silent.mp4"];
    let mut files: Vec<Vec<u8>> = names.iter().map(|name| fs::read(fixture(name)).unwrap()).collect();
    files.push(MONO.of(&click(16_000, 0.1, 0.05)));
    let mut dice = Dice(1);
    let (mut read, mut refused) = (0, 0);
    for original in &files {
        for _ in 0..400 {
            let mut bytes = original.clone();
            for _ in 0..=dice.below(4) {
                let at = dice.below(bytes.len());
                match dice.below(4) {
                    0 => bytes[at] = dice.below(256) as u8,
                    1 => bytes[at] ^= 1 << dice.below(8),
                    2 => bytes.truncate(at.max(1)),
                    _ => {
                        let part: Vec<u8> = bytes[at..].iter().take(dice.below(64)).copied().collect();
                        bytes.splice(at..at, part);
                    }
                }
            }
            let path = file(&bytes);
            let mut samples = 0;
            let sound = SoundFile::open(path.path()).and_then(|mut sound| {
                while let Some(block) = sound.next_block()? {
                    samples += block.len();
                    assert!(samples < 100_000_000, "a file of {} bytes has no end", bytes.len());
                }
                Ok(())
            });
            match sound {
                Ok(()) => read += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
            let _ = SoundTrack::cut(path.path(), 0.1, 0.5);
        }
    }
    assert!(read > 100 && refused > 100, "{read} were read, {refused} refused");
}
