//! Pieces of recordings as packets for a video. What a reader of the video hears is tested where videos are
//! written.

use magcache_audio::{Codec, SoundTrack};

use crate::support::{MONO, Wav, file, fixture};

fn ticks(track: &SoundTrack) -> u64 {
    track.packets.iter().map(|packet| u64::from(packet.ticks)).sum()
}

#[test]
fn packets_of_aac_and_mp3_are_copied() {
    for (name, per_packet, delay, before) in [
        ("click.mp3", 1152, 1105, 11),
        ("low.mp3", 576, 1105, 11),
        ("click.m4a", 1024, 1024, 3),
        ("click.aac", 1024, 0, 3),
    ] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for start in [0.0, 0.1875, 0.55] {
            let track = SoundTrack::cut(&fixture(name), start, 0.2).unwrap();
            assert_eq!(matches!(track.codec, Codec::Mp3), name.ends_with("mp3"));
            let lies_there = |data: &[u8]| bytes.windows(data.len()).any(|window| window == data);
            assert!(track.packets.iter().all(|packet| lies_there(&packet.data)), "{name}");
            assert_eq!(
                (track.heard, track.seconds()),
                ((0.2 * f64::from(track.rate)).round() as u64, 0.2),
                "{name}"
            );
            // The last one of an M4A file is as long as what it adds.
            let [most @ .., last] = &*track.packets else { panic!("no packets") };
            assert!(
                most.iter().all(|packet| packet.ticks == per_packet) && last.ticks <= per_packet,
                "{name}"
            );
            assert!(
                track.skip + track.heard <= ticks(&track) && ticks(&track) < track.skip + track.heard + 1152
            );
            let first = delay + (start * f64::from(track.rate)).round() as u64;
            let early = track.skip / u64::from(per_packet);
            assert_eq!(
                early,
                (first / u64::from(per_packet)).min(before),
                "{name} from {start}: enough to begin with"
            );
            assert_eq!((first - track.skip) % u64::from(per_packet), 0, "{name} from {start}");
        }
        let rest = SoundTrack::cut(&fixture(name), 0.3, 60.0).unwrap();
        let there = if name == "click.aac" { 0.832 } else { 0.8 };
        assert!((rest.seconds() - (there - 0.3)).abs() < 0.0015, "{name}: {}", rest.seconds());
    }
}

#[test]
fn whatever_else_there_is_becomes_aac() {
    // What needs all the bits there are: noise.
    let noise: Vec<f32> =
        (0..44_100u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0 - 0.5).collect();
    let low = file(&Wav { channels: 2, ..MONO }.of(&noise[..16_000]));
    let surround = file(&Wav { channels: 8, rate: 44_100, ..MONO }.of(&noise));
    let ogg = fixture("click.ogg");
    for (path, rate, channels) in [(low.path(), 48_000, 2), (surround.path(), 44_100, 2), (&*ogg, 44_100, 1)]
    {
        let track = SoundTrack::cut(path, 0.2, 0.5).unwrap();
        assert_eq!((track.rate, track.timescale, track.channels), (rate, rate, channels));
        let Codec::Aac { config } = &track.codec else { panic!("{:?}", track.codec) };
        // Low complexity, the index of the rate, the channels: ISO/IEC 14496-3, 1.6.2.1.
        let index = if rate == 48_000 { 3 } else { 4 };
        assert_eq!(u16::from_be_bytes([config[0], config[1]]), 2 << 11 | index << 7 | (channels as u16) << 3);
        assert_eq!(track.heard, u64::from(rate / 2));
        assert!(track.skip > 0 && ticks(&track) >= track.skip + track.heard);
        let bits = 8 * track.packets.iter().map(|packet| packet.data.len()).sum::<usize>();
        let share = bits as f64 / track.seconds() / 96_000.0 / channels as f64;
        let busy = path != ogg;
        assert!(share < 1.3 && (share > 0.7 || !busy), "{share} of the bits");
    }
}
