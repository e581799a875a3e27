//! `preprocessor_config.json`: a recording to the input of the encoder.

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::WaveformError;
use crate::checkpoint::{CheckpointError, Folder};

/// Samples per second of what the encoder hears.
pub const SAMPLE_RATE: usize = 16_000;

const FILE: &str = "preprocessor_config.json";

/// `Wav2Vec2FeatureExtractor` of transformers (5.23.0) for one recording: mean 0, variance 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wav2Vec2Processor {
    do_normalize: bool,
}

/// The file as transformers writes it, with its defaults. How batches are padded is of no concern.
#[derive(Deserialize)]
struct File {
    feature_extractor_type: Option<String>,
    feature_size: Option<usize>,
    sampling_rate: Option<usize>,
    do_normalize: Option<bool>,
}

impl Wav2Vec2Processor {
    /// Reads `preprocessor_config.json` of an encoder's folder.
    ///
    /// # Errors
    /// [`CheckpointError::WrongArchitecture`] for another extractor, [`CheckpointError::BadConfig`] for
    /// another sampling rate or more than one value per sample.
    pub fn read(folder: &Folder) -> Result<Self, CheckpointError> {
        Self::from_value(&folder.read_json(FILE)?, &folder.describe_file(FILE))
    }

    /// From the values of a `preprocessor_config.json`, whatever their source; messages call them `place`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_value(value: &Value, place: &str) -> Result<Self, CheckpointError> {
        const CLASS: &str = "Wav2Vec2FeatureExtractor";
        let file = || place.to_owned();
        let File { feature_extractor_type, feature_size, sampling_rate, do_normalize } =
            File::deserialize(value).map_err(|source| CheckpointError::Json { file: file(), source })?;
        if let Some(found) = feature_extractor_type
            && found != CLASS
        {
            return Err(CheckpointError::WrongArchitecture { file: file(), expected: CLASS.into(), found });
        }
        let sizes = [
            ("sampling_rate", sampling_rate.unwrap_or(SAMPLE_RATE), SAMPLE_RATE),
            ("feature_size", feature_size.unwrap_or(1), 1),
        ];
        if let Some((key, found, supported)) =
            sizes.into_iter().find(|(_, found, supported)| found != supported)
        {
            let reason = format!("{key} is {found}, supported is {supported}");
            return Err(CheckpointError::BadConfig { file: file(), reason });
        }
        Ok(Self { do_normalize: do_normalize.unwrap_or(true) })
    }

    /// A mono recording at [`SAMPLE_RATE`] to the encoder's input, f32 `[1, samples]`: `(x - mean) /
    /// sqrt(variance + 1e-7)` over all samples, unless the file switches that off.
    ///
    /// # Errors
    /// [`WaveformError::NotFinite`].
    pub fn input_values(&self, waveform: &[f32], device: &Device) -> Result<Tensor, WaveformError> {
        if let Some((index, value)) = waveform.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(WaveformError::NotFinite { index, value: *value });
        }
        let shape = (1, waveform.len());
        if !self.do_normalize {
            return Ok(Tensor::from_slice(waveform, shape, device)?);
        }
        let count = waveform.len().max(1) as f64;
        let mean = waveform.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let variance = waveform.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
        let deviation = (variance + 1e-7).sqrt();
        let values: Vec<f32> = waveform.iter().map(|x| ((f64::from(*x) - mean) / deviation) as f32).collect();
        Ok(Tensor::from_vec(values, shape, device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &Value) -> Result<Wav2Vec2Processor, CheckpointError> {
        Wav2Vec2Processor::from_value(json, "preprocessor_config.json")
    }

    fn values(json: &Value, waveform: &[f32]) -> Vec<f32> {
        let processor = read(json).expect("a valid file");
        let values = processor.input_values(waveform, &Device::Cpu).expect("finite");
        values.squeeze(0).and_then(|values| values.to_vec1()).expect("one recording")
    }

    #[test]
    fn the_variance_is_that_of_all_samples() {
        let json = serde_json::json!({ "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000 });
        let pairs = values(&json, &[1.0, 2.0, 3.0, 6.0]).into_iter().zip([-2.0, -1.0, 0.0, 3.0f32]);
        assert!(pairs.into_iter().all(|(value, x)| (value - x / 3.5f32.sqrt()).abs() < 1e-6));
        assert_eq!(values(&json, &[0.5; 3]), [0.0; 3], "silence");
        // A sum in f32 would lose the offset of so many samples.
        let long: Vec<f32> = (0..3_000_000).map(|i| 100.0 + (i % 2) as f32 * 1e-3).collect();
        let (low, high) = (values(&json, &long)[0], values(&json, &long)[1]);
        assert!((low + 0.845).abs() < 2e-2 && (high + low).abs() < 1e-5, "{low} {high}");
        let off = serde_json::json!({ "do_normalize": false });
        assert_eq!(values(&off, &[1.0, 2.0]), [1.0, 2.0]);
    }

    #[test]
    fn names_what_is_wrong() {
        for (json, part) in [
            (serde_json::json!({ "sampling_rate": 8000 }), "sampling_rate is 8000, supported is 16000"),
            (serde_json::json!({ "feature_size": 80 }), "feature_size is 80, supported is 1"),
            (
                serde_json::json!({ "feature_extractor_type": "WhisperFeatureExtractor" }),
                "\"WhisperFeatureExtractor\", expected \"Wav2Vec2FeatureExtractor\"",
            ),
            (serde_json::json!({ "do_normalize": 1 }), "cannot parse"),
        ] {
            let message = read(&json).expect_err(part).to_string();
            assert!(message.contains(part) && message.contains("preprocessor_config.json"), "{message}");
        }
        let processor = read(&serde_json::json!({})).expect("defaults");
        for wrong in [f32::NAN, f32::INFINITY] {
            let error = processor.input_values(&[0.0, wrong], &Device::Cpu).expect_err("not finite");
            assert!(error.to_string().contains("sample 1 of the recording is"), "{error}");
        }
    }
}
