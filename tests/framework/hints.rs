//! The hint of every kind of error: separate from the message, and found wherever the error is wrapped.

use std::{error::Error, fmt::Write, io, path::PathBuf, process::Command};

use magcache_core::{
    ConfigError, Problem,
    calibrate::RecordingError,
    hint::{self, Hint},
};
use magcache_models::{
    autoencoder::AutoencoderError,
    checkpoint::{self, CheckpointError},
    image::PictureError,
    pipeline::PipelineError,
    sampler::{SamplerError, SamplerKind},
    text::{TextError, TokenizerError},
};

/// Writes an error's message and hint, and checks that the hint is found wherever the error is wrapped.
fn told(out: &mut String, make: &dyn Fn() -> Box<dyn Error + Send + Sync>) {
    let error = make();
    let said = hint::of(&*error);
    // If backtraces are enabled, a candle error has one after its first line.
    let message = error.to_string().lines().next().unwrap_or_default().to_owned();
    assert!(!message.contains("hint:"), "{message}");
    assert_eq!(hint::of(&PipelineError::part("part", make())), said, "{message}: in a part");
    assert_eq!(hint::of(&PipelineError::Sink(make())), said, "{message}: in a sink");
    let inner = || candle_core::Error::WrappedContext { wrapped: make(), context: String::new() };
    assert_eq!(hint::of(&inner().context("c").with_path("p")), said, "{message}: inside candle");
    for outer in [PipelineError::Tensor(inner()), SamplerError::Tensor(inner()).into()] {
        assert_eq!(hint::of(&outer), said, "{message}: inside {outer:?}");
    }
    writeln!(out, "{message}\nhint: {}\n", said.as_deref().unwrap_or("none")).unwrap();
}

#[test]
fn every_error_says_what_to_do_apart_from_what_is_wrong() {
    let mut out = String::new();
    let s = str::to_owned;
    macro_rules! told {
        ($($error:expr),+ $(,)?) => { $(told(&mut out, &|| Box::new($error));)+ };
    }
    told!(
        ConfigError::UnknownKey { place: s("cache[0]"), key: s("treshold"), nearest: Some(s("threshold")) },
        ConfigError::UnknownName { place: s("p"), kind: "strategy", name: s("zzz"), nearest: None },
        ConfigError::Syntax { place: s("f"), message: s("a table"), hint: Some(s("[[cache]]")) },
        ConfigError::Problems(vec![Problem::error("p", "wrong").hint("`steps = 3`")]),
        ConfigError::Read { path: PathBuf::from("f"), source: io::ErrorKind::NotFound.into() },
        RecordingError::Steps { got: 3, expected: 4 },
        RecordingError::Missing(s("reuse.sources")),
    );
    told!(
        CheckpointError::MissingFile { file: s("f"), expected: s("the weights") },
        CheckpointError::Truncated { file: s("f"), expected: 9, found: 8 },
        CheckpointError::BadTorchFile { file: s("f"), reason: s("r"), hint: Some("download it again") },
        CheckpointError::CodeInPickle { file: s("f"), name: s("os.system") },
        CheckpointError::UnknownLayout { folder: s("f"), looked_for: vec![s("a"), s("b")] },
        CheckpointError::MissingTensor { name: s("a"), file: s("f"), nearest: Some(s("b")) },
        CheckpointError::MissingTensor { name: s("a"), file: s("f"), nearest: None },
        CheckpointError::SurplusTensor { name: s("a"), file: s("f"), model: "FLUX.1" },
        CheckpointError::Config { file: s("f"), reason: s("r"), hint: Some(s("h")) },
    );
    told!(
        PictureError::Empty { file: s("f") },
        PictureError::NotAPicture { file: s("f"), start: s("\"hello\"") },
        PictureError::Unsupported { file: s("f"), format: s("AVIF") },
        PictureError::TooLarge { file: s("f"), width: 1 << 20, height: 1 },
        PictureError::Memory { file: s("f") },
        PictureError::Truncated { file: s("f"), bytes: 9 },
        PictureError::Damaged { file: s("f"), format: "PNG", reason: s("r") },
        PictureError::LongFile { file: s("f") },
    );
    told!(
        SamplerError::UnknownClass { got: s("\"DDIMScheduler\"") },
        SamplerError::UnknownKind { got: s("ddim") },
        SamplerError::MissingMu,
        SamplerError::DynamicShift { kind: SamplerKind::UniPc },
        SamplerError::ExplicitSigmas { kind: SamplerKind::UniPc, got: 3 },
        SamplerError::NotDecreasing { index: 1, from: 0.5, to: 0.5, shift: 1e9 },
        SamplerError::SigmaCount { got: 3, steps: 4 },
    );
    told!(
        TokenizerError::TooLong { chars: 99_999, max_length: 512 },
        TextError::from(TokenizerError::TooLong { chars: 99_999, max_length: 512 }),
        TextError::UnknownToken { id: 97, vocab_size: 97 },
        checkpoint::ConfigError::Class { got: s("A"), expected: "B", hint: s("this is a Wan model") },
        checkpoint::ConfigError::UnknownKey { key: s("k"), value: s("1") },
        AutoencoderError::NotAMultiple {
            what: "frames",
            width: 17,
            height: 16,
            multiple: 4,
            how: "in tiles"
        },
        AutoencoderError::Odd { width: 3, height: 2 },
        AutoencoderError::StreamChanged { expected: [1, 2, 3], got: [2, 2, 3] },
    );
    told!(
        PipelineError::request("no steps", "`steps = 3`"),
        PipelineError::Checkpoint(CheckpointError::MissingFile { file: s("f"), expected: s("weights") }),
        PipelineError::Config(ConfigError::Problems(vec![Problem::error("p", "wrong").hint("do")])),
        PipelineError::Sampler(SamplerError::MissingMu),
        PipelineError::Tensor(hint::wrap(SamplerError::MissingMu)),
        PipelineError::Tensor(hint::tensor_error("another model", "each needs its own")),
        PipelineError::Interrupted { step: 1, steps: 2 },
    );
    assert!(PipelineError::request("m", "h").hint().is_some());
    insta::assert_snapshot!(out);
}

/// What this project says has no backtrace, even if one is asked for; what candle says has one.
#[test]
fn a_message_and_its_hint_are_all_that_is_told() {
    const ASKED: &str = "RUST_BACKTRACE";
    if std::env::var(ASKED).as_deref() != Ok("1") {
        let own = "hints::a_message_and_its_hint_are_all_that_is_told";
        let mut again = Command::new(std::env::current_exe().unwrap());
        let out = again.args(["--exact", own]).env(ASKED, "1").output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    assert!(candle_core::Error::msg("m").to_string().lines().count() > 1, "backtraces are on");
    let wrapped = hint::wrap(SamplerError::MissingMu);
    assert_eq!(hint::told(&wrapped), hint::told(&SamplerError::MissingMu));
    let made = PipelineError::Tensor(hint::tensor_error("another model", "each needs its own"));
    assert_eq!(hint::told(&made), "another model\nhint: each needs its own");
}
