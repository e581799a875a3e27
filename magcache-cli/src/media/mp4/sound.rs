//! The track of sound: ISO/IEC 14496-14 for `mp4a` and `esds`, 14496-1 for the descriptors in it.

use magcache_audio::{Codec, Packet, SoundTrack};

use super::boxes::{Trak, be, boxed, full, one_chunk};

/// Full volume, in 8.8.
const FULL: u16 = 0x0100;
/// What a packet is coded in, as registered for `esds`: AAC, and layer III of MPEG-2 and of MPEG-1.
const AAC: u8 = 0x40;
const MP3_LOW: u8 = 0x69;
const MP3: u8 = 0x6b;
/// Lowest rate of MPEG-1, in Hz.
const MPEG1_RATE: u32 = 32_000;

pub(super) fn bytes(track: &SoundTrack) -> u64 {
    track.packets.iter().map(|packet| packet.data.len() as u64).sum()
}

/// The box of this track, whose packets lie from byte `at` on, in a movie of `movie` ticks of which a second
/// has `timescale`.
pub(super) fn trak(track: &SoundTrack, at: u32, movie: u64, timescale: u32) -> Vec<u8> {
    let shown = ((track.seconds() * f64::from(timescale)).round() as u64).min(movie);
    let sizes: Vec<u32> = track.packets.iter().map(|packet| packet.data.len() as u32).collect();
    let stsd = full(b"stsd", 0, 0, &[&[0, 0, 0, 1], &mp4a(track)]);
    let trak = Trak {
        number: 2,
        shown,
        volume: FULL,
        size: [0; 2],
        edits: edits(shown, track.skip),
        timescale: track.timescale,
        duration: track.packets.iter().map(|packet| u64::from(packet.ticks)).sum(),
        handler: b"soun",
        name: b"sound\0",
        header: full(b"smhd", 0, 0, &[&[0; 4]]),
        table: [stsd, times(&track.packets), one_chunk(&sizes, at)].concat(),
    };
    trak.boxed()
}

/// What is heard begins behind what only the decoder needs.
fn edits(shown: u64, skip: u64) -> Vec<u8> {
    let normal_speed = [0, 1, 0, 0];
    let entry = [&shown.to_be_bytes()[..], &skip.to_be_bytes(), &normal_speed].concat();
    boxed(b"edts", &[&full(b"elst", 1, 0, &[&[0, 0, 0, 1], &entry])])
}

/// `stts`: how many packets of equal length follow each other.
fn times(packets: &[Packet]) -> Vec<u8> {
    let runs: Vec<u32> = packets
        .chunk_by(|one, next| one.ticks == next.ticks)
        .flat_map(|run| [run.len() as u32, run.first().map_or(0, |packet| packet.ticks)])
        .collect();
    full(b"stts", 0, 0, &[&be(&[runs.len() as u32 / 2]), &be(&runs)])
}

fn mp4a(track: &SoundTrack) -> Vec<u8> {
    let (kind, config) = match &track.codec {
        Codec::Aac { config } => (AAC, descriptor(5, &[config])),
        Codec::Mp3 if track.rate < MPEG1_RATE => (MP3_LOW, Vec::new()),
        Codec::Mp3 => (MP3, Vec::new()),
    };
    let seconds =
        track.packets.iter().map(|packet| f64::from(packet.ticks)).sum::<f64>() / f64::from(track.timescale);
    let mean = (8.0 * bytes(track) as f64 / seconds) as u32;
    // Sound, downstream; the size of the decoder's buffer and the highest bit rate are not known.
    let decoder = descriptor(4, &[&[kind, 0x15], &[0; 7], &mean.to_be_bytes(), &config]);
    let esds = full(b"esds", 0, 0, &[&descriptor(3, &[&[0; 3], &decoder, &descriptor(6, &[&[2]])])]);
    let channels = (track.channels as u16).to_be_bytes();
    // The field has 16 bits, and decoders read the rate from the packets.
    let rate = u16::try_from(track.rate).unwrap_or(0).to_be_bytes();
    let reference = [0, 0, 0, 0, 0, 0, 0, 1];
    boxed(b"mp4a", &[&reference, &[0; 8], &channels, &[0, 16], &[0; 4], &rate, &[0; 2], &esds])
}

/// A descriptor: its tag, its length in four bytes of seven bits, and its content.
fn descriptor(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let length =
        [21, 14, 7, 0].map(|shift| (content.len() >> shift) as u8 & 0x7f | if shift > 0 { 0x80 } else { 0 });
    [&[tag][..], &length, &content].concat()
}
