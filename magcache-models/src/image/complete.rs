//! Whether a file is complete, for formats whose decoders do not always notice.
//!
//! A JPEG decoder fills missing parts with gray, which would then be animated; a WebP decoder does not notice
//! missing metadata after the pixels. The reference's loader refuses such files.

/// True when the segments and the entropy-coded data of a JPEG file lead to the end-of-image marker; what
/// follows it does not matter.
pub(super) fn jpeg(bytes: &[u8]) -> bool {
    const SCAN: u8 = 0xda;
    const END: u8 = 0xd9;
    // Past the start-of-image marker.
    let mut at = 2;
    while let Some((marker, after)) = next_marker(bytes, at) {
        match marker {
            END => return true,
            // Restart markers and the temporary marker have no length.
            0xd0..=0xd7 | 0x01 => at = after,
            _ => {
                let Some(&[high, low]) = bytes.get(after..after + 2) else { return false };
                at = after + usize::from(u16::from_be_bytes([high, low])).max(2);
                if marker == SCAN {
                    at = skip_entropy(bytes, at);
                }
            }
        }
    }
    false
}

/// True when a WebP file is as long as its first chunk says.
pub(super) fn webp(bytes: &[u8]) -> bool {
    let Some(&[a, b, c, d]) = bytes.get(4..8) else { return false };
    bytes.len() as u64 >= u64::from(u32::from_le_bytes([a, b, c, d])) + 8
}

/// The marker at or after `at`, and where its segment begins. Bytes between segments are skipped, as decoders
/// do.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        match *bytes.get(at + 1)? {
            0 => at += 2,
            // A marker may be preceded by any number of fill bytes.
            0xff => at += 1,
            marker => return Some((marker, at + 2)),
        }
    }
}

/// Where the entropy-coded data ends: at the first marker that does not belong to it.
fn skip_entropy(bytes: &[u8], mut at: usize) -> usize {
    while let Some((marker, after)) = next_marker(bytes, at) {
        if !(0xd0..=0xd7).contains(&marker) {
            return after - 2;
        }
        at = after;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &[u8] =
        b"\xff\xd8\xff\xe1\x00\x06\xff\xd8\xff\xd9\xff\xda\x00\x03\x01ab\xff\x00\xff\xd3c\xff\xff\xd9";

    #[test]
    fn only_the_end_of_the_picture_itself_counts() {
        assert!(jpeg(SMALL));
        assert!(jpeg(&[SMALL, b"a film after the photo"].concat()));
        // The thumbnail in the first segment has an end marker too.
        for length in 0..SMALL.len() {
            assert!(!jpeg(&SMALL[..length]), "{length}");
        }
    }
}
