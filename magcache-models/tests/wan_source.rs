//! Checkpoints in the diffusers layout, and the errors for incomplete ones.

mod support;

use std::fs;

use magcache_core::Expert;
use magcache_models::{
    checkpoint::CheckpointError,
    wan::{Layout, WanSource, WanTask, WanTransformer, tiny},
};
use serde_json::{Value, json};
use support::{DEVICE, KEEP, copy_folder, edit_json, folder, tiny_folder};

fn opened(root: &std::path::Path) -> Result<WanSource, CheckpointError> {
    WanSource::open(folder(root))
}

fn refusal(root: &std::path::Path) -> String {
    opened(root).expect_err("is incomplete").to_string()
}

#[test]
fn the_embedded_model_is_text_to_video() {
    let source = WanSource::open(tiny::wan21_t2v()).unwrap();
    assert_eq!((source.layout(), source.task()), (Layout::Diffusers, WanTask::T2V));
    assert_eq!((source.experts(), source.boundary_ratio(), source.expand_timesteps()), (1, None, false));
    assert!(source.image_encoder_config().is_none());
    assert!(source.image_encoder(&DEVICE, KEEP).unwrap().is_none());
    for expert in [Expert(0), Expert(1)] {
        let weights = source.transformer(expert, &DEVICE, KEEP).unwrap();
        WanTransformer::load(&weights, source.transformer_config(expert).clone()).unwrap();
    }
    source.load_text_encoder(&DEVICE, KEEP).unwrap();
}

/// Two experts: one transformer in two folders, the second with values of its own.
fn two_experts(root: &std::path::Path) {
    copy_folder(&tiny_folder(), root);
    copy_folder(&root.join("transformer"), &root.join("transformer_2"));
    edit_json(&root.join("model_index.json"), |index| {
        index["transformer_2"] = json!(["diffusers", "WanTransformer3DModel"]);
        index["boundary_ratio"] = json!(0.875);
    });
}

#[test]
fn two_experts_need_both_folders_and_a_boundary() {
    let root = tempfile::tempdir().unwrap();
    two_experts(root.path());
    let source = opened(root.path()).unwrap();
    assert_eq!((source.experts(), source.boundary_ratio()), (2, Some(0.875)));
    let second = source.transformer(Expert(1), &DEVICE, KEEP).unwrap();
    assert!(second.place().contains("transformer_2"), "{}", second.place());
    assert!(!source.transformer(Expert(0), &DEVICE, KEEP).unwrap().place().contains("_2"));

    let index = root.path().join("model_index.json");
    for (ratio, part) in [(Value::Null, "boundary_ratio is null"), (json!(1.5), "boundary_ratio is 1.5")] {
        edit_json(&index, |index| index["boundary_ratio"] = ratio);
        assert!(refusal(root.path()).contains(part), "{}", refusal(root.path()));
    }
    edit_json(&index, |index| index["boundary_ratio"] = json!(0.875));
    edit_json(&root.path().join("transformer_2/config.json"), |config| config["eps"] = json!(1e-5));
    assert!(refusal(root.path()).contains("transformer_2/config.json: differs from"));
    fs::remove_file(root.path().join("transformer_2/diffusion_pytorch_model.gguf")).unwrap();
    assert!(
        refusal(root.path()).contains("transformer_2/diffusion_pytorch_model.safetensors does not exist")
    );
    fs::remove_dir_all(root.path().join("transformer_2")).unwrap();
    assert!(refusal(root.path()).contains("transformer_2/config.json does not exist"));
    edit_json(&index, |index| index["transformer_2"] = json!([null, null]));
    assert!(refusal(root.path()).contains("boundary_ratio is 0.875, but there is no transformer_2"));
}

#[test]
fn the_task_comes_from_the_class_and_the_configurations() {
    let root = tempfile::tempdir().unwrap();
    copy_folder(&tiny_folder(), root.path());
    let index = root.path().join("model_index.json");
    let transformer = root.path().join("transformer/config.json");
    edit_json(&index, |index| index["_class_name"] = json!("WanImageToVideoPipeline"));
    assert!(refusal(root.path()).contains("in_channels is 16, i2v with 16 latent channels takes 36"));
    edit_json(&transformer, |config| config["in_channels"] = json!(36));
    assert_eq!(opened(root.path()).unwrap().task(), WanTask::I2V);

    // Wan 2.1's image models attend to CLIP embeddings; FLF2V has a learned position for both frames.
    edit_json(&transformer, |config| {
        config["image_dim"] = json!(48);
        config["added_kv_proj_dim"] = json!(128);
        config["pos_embed_seq_len"] = json!(10);
    });
    assert!(refusal(root.path()).contains("image_encoder/config.json does not exist"));
    copy_folder(&root.path().join("text_encoder"), &root.path().join("image_encoder"));
    let source = opened(root.path()).unwrap();
    assert_eq!(source.task(), WanTask::FLF2V);
    assert!(source.image_encoder_config().is_some() && source.image_processor_config().is_none());

    copy_folder(&tiny_folder(), root.path());
    edit_json(&index, |index| index["expand_timesteps"] = json!(true));
    let source = opened(root.path()).unwrap();
    assert_eq!((source.task(), source.expand_timesteps()), (WanTask::TI2V, true));
    edit_json(&index, |index| index["_class_name"] = json!("WanVACEPipeline"));
    assert!(refusal(root.path()).contains("\"WanVACEPipeline\", expected \"WanPipeline\" or"));
}

#[test]
fn a_missing_part_is_named_before_anything_is_loaded() {
    for (absent, said) in [
        ("transformer/diffusion_pytorch_model.gguf", "transformer/diffusion_pytorch_model"),
        ("transformer/config.json", "transformer/config.json does not exist"),
        ("vae/config.json", "vae/config.json does not exist"),
        ("vae/diffusion_pytorch_model.gguf", "vae/diffusion_pytorch_model"),
        ("text_encoder/model.safetensors", "text_encoder/"),
        ("tokenizer/tokenizer.json", "tokenizer/tokenizer.json does not exist"),
        ("scheduler/scheduler_config.json", "scheduler_config.json does not exist"),
    ] {
        let root = tempfile::tempdir().unwrap();
        copy_folder(&tiny_folder(), root.path());
        fs::remove_file(root.path().join(absent)).unwrap();
        assert!(refusal(root.path()).contains(said), "{absent}: {}", refusal(root.path()));
    }
}
