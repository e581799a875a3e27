//! The boxes of an MP4 file that every track has: ISO/IEC 14496-12.

/// The identity transformation, as nine numbers in 16.16 and 2.30.
pub(super) const UNITY: [u32; 9] = [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000];
/// `und` (undetermined language), three letters of five bits each.
const UNDETERMINED: u16 = 0x55c4;
/// Enabled, in the movie and in its preview.
const TRACK_SHOWN: u32 = 7;
/// The data is in this file.
const SELF_CONTAINED: u32 = 1;

/// A `trak` box; creation and modification times stay 0, so that the same input gives the same file.
#[derive(Debug)]
pub(super) struct Trak<'a> {
    /// Counted from 1.
    pub(super) number: u32,
    /// In ticks of the movie.
    pub(super) shown: u64,
    /// In 8.8; 0 for pictures.
    pub(super) volume: u16,
    /// In 16.16; 0 for sound.
    pub(super) size: [u32; 2],
    /// The box of the edit list, or nothing.
    pub(super) edits: Vec<u8>,
    /// Ticks per second of the track.
    pub(super) timescale: u32,
    /// In ticks of the track.
    pub(super) duration: u64,
    pub(super) handler: &'a [u8; 4],
    /// Ends in 0.
    pub(super) name: &'a [u8],
    /// The box that only tracks of this kind have.
    pub(super) header: Vec<u8>,
    /// The content of the sample table.
    pub(super) table: Vec<u8>,
}

impl Trak<'_> {
    pub(super) fn boxed(&self) -> Vec<u8> {
        let place: [&[u8]; 3] = [&[0; 12], &self.volume.to_be_bytes(), &[0; 2]];
        let tkhd_body: [&[u8]; 7] = [
            &[0; 16],
            &self.number.to_be_bytes(),
            &[0; 4],
            &self.shown.to_be_bytes(),
            &place.concat(),
            &be(&UNITY),
            &be(&self.size),
        ];
        let tkhd = full(b"tkhd", 1, TRACK_SHOWN, &tkhd_body);
        let (timescale, duration) = (self.timescale.to_be_bytes(), self.duration.to_be_bytes());
        let language = UNDETERMINED.to_be_bytes();
        let mdhd = full(b"mdhd", 1, 0, &[&[0; 16], &timescale, &duration, &language, &[0; 2]]);
        let hdlr = full(b"hdlr", 0, 0, &[&[0; 4], self.handler, &[0; 12], self.name]);
        let url = full(b"url ", 0, SELF_CONTAINED, &[]);
        let dinf = boxed(b"dinf", &[&full(b"dref", 0, 0, &[&[0, 0, 0, 1], &url])]);
        let minf = boxed(b"minf", &[&self.header, &dinf, &boxed(b"stbl", &[&self.table])]);
        let mdia = boxed(b"mdia", &[&mdhd, &hdlr, &minf]);
        boxed(b"trak", &[&tkhd, &self.edits, &mdia])
    }
}

/// The sample table's boxes for samples in one chunk that begins at byte `at` of the file.
pub(super) fn one_chunk(sizes: &[u32], at: u32) -> Vec<u8> {
    let samples = sizes.len() as u32;
    let stsc = full(b"stsc", 0, 0, &[&be(&[1, 1, samples, 1])]);
    let stsz = full(b"stsz", 0, 0, &[&be(&[0, samples]), &be(sizes)]);
    let stco = full(b"stco", 0, 0, &[&be(&[1, at])]);
    [stsc, stsz, stco].concat()
}

/// Numbers in sequence, big-endian.
pub(super) fn be(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// A box: its length, its type and its content.
pub(super) fn boxed(kind: &[u8; 4], content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    [&(content.len() as u32 + 8).to_be_bytes(), kind.as_slice(), &content].concat()
}

/// A box with version and flags before its content.
pub(super) fn full(kind: &[u8; 4], version: u8, flags: u32, content: &[&[u8]]) -> Vec<u8> {
    let version_and_flags = (u32::from(version) << 24 | flags).to_be_bytes();
    boxed(kind, &[&version_and_flags, &content.concat()])
}

/// The header of an `mdat` box with `length` bytes of data; from 4 GiB on the length takes 64 bits.
pub(super) fn mdat_header(length: u64) -> Vec<u8> {
    match u32::try_from(length + 8) {
        Ok(size) => [&size.to_be_bytes(), b"mdat".as_slice()].concat(),
        Err(_) => [&1u32.to_be_bytes(), b"mdat".as_slice(), &(length + 16).to_be_bytes()].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_gigabytes_take_the_long_header() {
        let most = u64::from(u32::MAX) - 8;
        assert_eq!(mdat_header(2), [0, 0, 0, 10, b'm', b'd', b'a', b't']);
        assert_eq!(mdat_header(most), [255, 255, 255, 255, b'm', b'd', b'a', b't']);
        let long = [0, 0, 0, 1, b'm', b'd', b'a', b't', 0, 0, 0, 1, 0, 0, 0, 8];
        assert_eq!(mdat_header(most + 1), long);
    }
}
