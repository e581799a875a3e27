//! The image encoder of Wan 2.1 and its input against recorded runs of transformers.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use magcache_models::{
    checkpoint::{CheckpointError, Folder, WeightDtype, Weights},
    clip::{ClipImageProcessor, ClipVisionConfig, ClipVisionEncoder},
    image::{Picture, PictureError},
    wan::WanImageEncoder,
};

const CASES: [&str; 2] = ["clip_vision_wan_i2v", "clip_vision_wan_i2v_seed7"];

fn fixtures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn case(name: &str) -> PathBuf {
    fixtures("golden/text_encoders").join(name)
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn worst(ours: &Tensor, theirs: &Tensor) -> f32 {
    assert_eq!(ours.dims(), theirs.dims());
    (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn picture(tensor: &Tensor) -> Picture {
    let (height, width, _) = tensor.dims3().unwrap();
    Picture::from_rgb8(width, height, tensor.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
}

/// A model folder with the case's encoder and a processor of the given sizes.
fn model(name: &str, size: usize, crop: usize) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let (encoder, processor) = (root.path().join("image_encoder"), root.path().join("image_processor"));
    fs::create_dir_all(&encoder).unwrap();
    fs::create_dir_all(&processor).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(case(name).join(file), encoder.join(file)).unwrap();
    }
    let json = format!(
        r#"{{"size": {{"shortest_edge": {size}}}, "crop_size": {{"height": {crop}, "width": {crop}}}}}"#
    );
    fs::write(processor.join("preprocessor_config.json"), json).unwrap();
    root
}

#[test]
fn hidden_states_are_those_of_transformers() {
    for name in CASES {
        let folder = Folder::open(case(name)).unwrap();
        let golden = tensors(&case(name).join("golden.safetensors"));
        let encoder = ClipVisionEncoder::open(&folder, &Device::Cpu, WeightDtype::Keep).unwrap();
        let pixels = &golden["b2.pixel_values"];
        let error = worst(&encoder.forward(pixels).unwrap(), &golden["b2.image_embeds"]);
        assert!(error < 2e-5, "{name}: {error}");
        let states = encoder.hidden_states(pixels).unwrap();
        assert_eq!(states.len(), encoder.config().num_hidden_layers);
        for (i, state) in states.iter().enumerate() {
            let error = worst(state, &golden[&format!("b2.hidden_states.{i}")]);
            assert!(error < 2e-5, "{name} {i}: {error}");
        }
        let message = encoder.forward(&pixels.narrow(2, 1, 3).unwrap()).unwrap_err().to_string();
        assert!(message.contains("takes [batch, 3, "), "{message}");
    }
}

#[test]
fn only_what_wan_reads_is_loaded() {
    let folder = Folder::open(case(CASES[0])).unwrap();
    let config = ClipVisionConfig::read(&folder).unwrap();
    let weights = Weights::open(&folder, &Device::Cpu, WeightDtype::Keep).unwrap();
    ClipVisionEncoder::load(&weights, &config).unwrap();
    let unused = weights.unused();
    assert_eq!(unused.len(), 16 + 2);
    let last = |name: &&&str| name.contains("layers.2.") || name.contains("post_layernorm");
    assert_eq!(unused.iter().filter(last).count(), unused.len(), "{unused:?}");
}

#[test]
fn names_without_the_prefix_and_half_precision_load_too() {
    let folder = Folder::open(case(CASES[0])).unwrap();
    let config = ClipVisionConfig::read(&folder).unwrap();
    let golden = tensors(&case(CASES[0]).join("golden.safetensors"));
    let open = |dtype| Weights::open(&folder, &Device::Cpu, dtype).unwrap();
    let bare = open(WeightDtype::Keep)
        .renamed(|name| name.strip_prefix("vision_model.").map(str::to_owned))
        .unwrap();
    let ours = |weights| {
        ClipVisionEncoder::load(weights, &config).unwrap().forward(&golden["b2.pixel_values"]).unwrap()
    };
    assert!(worst(&ours(&bare), &golden["b2.image_embeds"]) < 2e-5);
    let half = ours(&open(WeightDtype::Cast(DType::BF16)));
    assert_eq!(half.dtype(), DType::F32);
    let error = worst(&half, &golden["b2.image_embeds"]);
    assert!(error > 1e-4 && error < 0.1, "{error}");

    let error = ClipVisionEncoder::load(&bare, &ClipVisionConfig { num_hidden_layers: 5, ..config.clone() });
    assert!(matches!(error, Err(CheckpointError::MissingTensor { name, .. }) if name.contains("layers.3.")));
    let error = ClipVisionEncoder::load(&bare, &ClipVisionConfig { patch_size: 3, ..config });
    assert!(
        matches!(error, Err(CheckpointError::WrongShape { name, .. }) if name.contains("patch_embedding"))
    );
}

#[test]
fn pixels_are_those_of_the_image_processor() {
    let expected = tensors(&fixtures("images/expected.safetensors"));
    let root = model(CASES[0], 16, 16);
    let folder = Folder::open(root.path()).unwrap().sub("image_processor");
    let processor = ClipImageProcessor::read(&folder).unwrap();
    let mut seen = 0;
    for (key, theirs) in &expected {
        let Some(size) = key.strip_prefix("clip.").and_then(|k| k.strip_suffix(".pixel_values")) else {
            continue;
        };
        seen += 1;
        let source = picture(&expected[&format!("clip.{size}.source")]);
        let ours = processor.pixel_values(&source, &Device::Cpu).unwrap();
        // One step of 255 in the scaled picture; no error if it is not scaled.
        let allowed = if size.ends_with("x16") { 1e-6 } else { 1.001 / 255.0 / 0.261 };
        let error = worst(&ours, theirs);
        assert!(error <= allowed, "{size}: {error}");
        let mean = (ours - theirs).unwrap().abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(mean < 2e-3, "{size}: {mean}");
    }
    assert_eq!(seen, 4);
    let sliver = Picture::from_rgb8(1, 2000, vec![0; 6000]).unwrap();
    let error = processor.pixel_values(&sliver, &Device::Cpu);
    assert!(matches!(error, Err(PictureError::Target { width: 16, height: 32_000 })));
}

#[test]
fn first_and_last_frame_become_two_rows() {
    let expected = tensors(&fixtures("images/expected.safetensors"));
    let (first, last) = (picture(&expected["clip.37x23.source"]), picture(&expected["clip.23x37.source"]));
    let size = ClipVisionConfig::read(&Folder::open(case(CASES[0])).unwrap()).unwrap().image_size;
    let root = model(CASES[0], size, size);
    let load = |root: &tempfile::TempDir| {
        WanImageEncoder::load(&Folder::open(root.path()).unwrap(), &Device::Cpu, WeightDtype::Keep)
    };
    let encoder = load(&root).unwrap();
    let both = encoder.encode(&[&first, &last]).unwrap();
    assert_eq!(both.dims(), [2, encoder.encoder().config().tokens(), 32]);
    for (row, picture) in [first, last].iter().enumerate() {
        let one = encoder.encode(&[picture]).unwrap();
        assert!(worst(&one, &both.narrow(0, row, 1).unwrap()) < 1e-5);
    }
    let message = load(&model(CASES[0], 16, 14)).unwrap_err().to_string();
    assert!(message.contains("crop_size is 14 x 14, image_size of the image encoder is 12"), "{message}");
    fs::remove_dir_all(root.path().join("image_processor")).unwrap();
    let message = load(&root).unwrap_err().to_string();
    assert!(message.contains("crop_size is 224 x 224"), "{message}");
}
