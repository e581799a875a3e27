"""The small wav2vec 2.0 of the speech-to-video model, and what the video model hears through it."""

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from voices import FPS, normalise

FEATURES_PER_SECOND = 30
VOCABULARY = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4}
PREPROCESSOR = {
    "do_normalize": True,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
}


def new_wav2vec2():
    """Two layers of width 48 behind the published seven convolutions; the structure of wav2vec2-large-xlsr-53."""
    width = 48
    return Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=len(VOCABULARY), hidden_size=width, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=2 * width, conv_dim=(width,) * 7, conv_kernel=(10, 3, 3, 3, 3, 2, 2),
            conv_stride=(5, 2, 2, 2, 2, 2, 2), conv_bias=True, feat_extract_norm="layer", do_stable_layer_norm=True,
            num_conv_pos_embeddings=128, num_conv_pos_embedding_groups=16, apply_spec_augment=False, layerdrop=0.0,
            hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0,
            final_dropout=0.0,
        )
    )  # fmt: skip


def hidden_states(model, sounds):
    """[batch, states, frames, width] of normalised ``sounds`` [batch, samples]: 50 frames a second.

    The last one is taken behind the final norm, as the published speech-to-video model was trained.
    """
    out = model.wav2vec2(sounds, output_hidden_states=True)
    return torch.stack([*out.hidden_states[:-1], out.last_hidden_state], 1)


def resample(states):
    """50 frames of ``states`` [states, frames, width] to 30 a second, both ends kept."""
    old, new = states.shape[1], int(states.shape[1] / 50.0 * FEATURES_PER_SECOND)
    at = torch.arange(new, dtype=torch.float64) * ((old - 1) / (new - 1))
    low = at.long().clamp(max=old - 2)
    part = (at - low).view(1, -1, 1).float()
    return states[:, low] * (1 - part) + states[:, low + 1] * part


@torch.no_grad()
def audio_embedding(model, sound, clip_frames, clips=None):
    """Features [states, width, clip_frames * clips] of every video frame, zeros behind the end of ``sound`` [samples].

    ``clips`` defaults to what the official program makes of the sound: enough, or one more.
    """
    features = resample(hidden_states(model, torch.from_numpy(normalise(sound))[None])[0])
    heard = features.shape[1]
    if clips is None:
        clips = int(heard / (clip_frames * (FEATURES_PER_SECOND / FPS))) + 1
    frames = [int(np.round(k * FEATURES_PER_SECOND / FPS)) for k in range(clips * clip_frames)]
    silence = torch.zeros_like(features[:, :1])
    rows = [features[:, k : k + 1] if k < heard else silence for k in frames]
    return torch.cat(rows, 1).transpose(1, 2)
