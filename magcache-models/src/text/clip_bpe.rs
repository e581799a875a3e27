//! CLIP's tokenizer from the files that predate `tokenizer.json`.

use std::collections::BTreeMap;

use serde_json::json;

use crate::checkpoint::{CheckpointError, Folder};

pub(super) const VOCAB: &str = "vocab.json";
pub(super) const MERGES: &str = "merges.txt";

/// The first token of every row.
const START: &str = "<|startoftext|>";

/// The last token of every row, which also replaces what the vocabulary lacks.
pub(super) const END: &str = "<|endoftext|>";

/// Words, single digits and runs of other characters, as in `SimpleTokenizer` of CLIP.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// `vocab.json` and `merges.txt` as a `tokenizer.json`, by the rules of `CLIPTokenizer` in transformers
/// (5.23.0): NFC, lower case, white space reduced to single spaces, a byte-level BPE whose words end in
/// `</w>`.
///
/// # Errors
/// Missing or unreadable files, a vocabulary without the tokens around a prompt.
pub(super) fn tokenizer_json(folder: &Folder) -> Result<Vec<u8>, CheckpointError> {
    let vocab: BTreeMap<String, u32> = folder.read_json(VOCAB)?;
    let merges = folder.read_to_string(MERGES)?;
    let lines = merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    let merges: Vec<&str> = lines.collect();
    let special = |token: &str| {
        vocab.get(token).copied().ok_or_else(|| CheckpointError::Tokenizer {
            file: folder.describe_file(VOCAB),
            reason: format!("the token \"{token}\" is not in its vocabulary"),
        })
    };
    let (start, end) = (special(START)?, special(END)?);
    let added = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        })
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [added(start, START), added(end, END)],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" }
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": WORDS }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }
        ] },
        "post_processor": {
            "type": "RobertaProcessing", "sep": [END, end], "cls": [START, start], "trim_offsets": false,
            "add_prefix_space": false
        },
        "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": END, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": &vocab, "merges": merges
        }
    });
    Ok(tokenizer.to_string().into_bytes())
}
