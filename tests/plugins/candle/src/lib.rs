//! Caches around two models of candle-transformers 0.11.1, which stays as it is published.
//!
//! **Z-Image** ([`z_image`]): the fields of `ZImageTransformer2DModel` are all private (`layers`,
//! `noise_refiner`, `context_refiner`, `t_embedder`, `cap_embedder_norm`, `cap_embedder_linear`,
//! `x_embedder`, `final_layer`, `rope_embedder`), so a loaded one cannot be surrounded block by block. But
//! its parts have public constructors and a public `forward`: `ZImageTransformerBlock`, `TimestepEmbedder`,
//! `FinalLayer`, `RopeEmbedder`, `patchify`, `unpatchify`. [`ZImage`] loads those parts from the same weights
//! and runs the layers through the pass. The modulated input cannot be shown as a signal, because
//! `attention_norm1` and `adaln_modulation` of a block are private; the time embedding can.
//!
//! **FLUX.1** ([`flux`]): caches of blocks are impossible in 0.11.1. Private are the fields `double_blocks`,
//! `single_blocks`, `img_in`, `txt_in`, `time_in`, `vector_in`, `guidance_in`, `pe_embedder` and
//! `final_layer` of `Flux`; `new` and `forward` of `DoubleStreamBlock`, `SingleStreamBlock` and `LastLayer`;
//! `new` of `MlpEmbedder`; and `timestep_embedding`. So neither a loaded model can be taken apart, nor can
//! one be put together from its parts. `pub` on the two vectors alone would not do: `forward` of the two
//! block types is needed too, and the rest of the forward around them. What remains are caches of the whole
//! forward, and they serve `quantized_model::Flux` as well, since both implement `WithForward`.
//!
//! What an author adds, in lines without comments, blanks and imports:
//!
//! | | model | registration | loop |
//! |---|---|---|---|
//! | Z-Image | 87 | 10 | 23 |
//! | FLUX.1 | 11 | 7 | 18 |

pub mod flux;
pub mod z_image;

pub use z_image::ZImage;

/// Keeps this crate, and so its registrations, in a binary that names nothing else of it.
pub fn link() {}
