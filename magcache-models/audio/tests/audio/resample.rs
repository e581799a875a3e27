//! Rates. How near the result is to libsoxr's is compared with recordings of it by `magcache verify`.

use std::f64::consts::TAU;

use magcache_audio::{Resampler, resample};

fn tone(rate: u32, frequency: f64, samples: usize) -> Vec<f32> {
    (0..samples).map(|n| (n as f64 / f64::from(rate) * frequency * TAU).sin() as f32).collect()
}

#[test]
fn pieces_of_any_size_make_the_same_whole() {
    let sound = tone(44_100, 700.0, 30_011);
    for (from, to) in
        [(44_100, 16_000), (8_000, 48_000), (48_000, 16_000), (16_000, 16_000), (22_050, 44_100)]
    {
        let whole = resample(&sound, from, to);
        assert_eq!(whole.len(), (sound.len() * to as usize).div_ceil(from as usize));
        for size in [1, 7, 1152, 40_000] {
            let (mut resampler, mut out) = (Resampler::new(from, to), Vec::new());
            sound.chunks(size).for_each(|piece| resampler.push(piece, &mut out));
            resampler.finish(&mut out);
            assert!(out == whole, "{from} to {to} in pieces of {size}");
        }
    }
    assert_eq!(resample(&[], 44_100, 16_000), [0.0; 0]);
    assert_eq!(resample(&sound, 16_000, 16_000), sound);
}

#[test]
fn tones_stay_in_place_and_those_too_high_are_gone() {
    for (from, to) in
        [(44_100, 16_000), (48_000, 16_000), (16_000, 48_000), (11_025, 16_000), (16_001, 16_000)]
    {
        let out = resample(&tone(from, 1000.0, from as usize), from, to);
        let expected = tone(to, 1000.0, to as usize);
        let worst = out.iter().zip(&expected).skip(1000).take(to as usize - 2000);
        let worst = worst.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-5, "{from} to {to}: {worst}");
    }
    let high = resample(&tone(48_000, 9000.0, 48_000), 48_000, 16_000);
    let worst = high[1000..15_000].iter().fold(0f32, |a, b| a.max(b.abs()));
    assert!(worst < 1e-6, "9 kHz at 16 kHz: {worst}");
}
