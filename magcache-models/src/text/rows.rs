//! Rows of token ids and masks, the input of every text encoder.

use candle_core::{DType, Device, Result, Tensor};

use super::TextError;
use crate::checkpoint::Matrix;

/// Returns the length of the rows.
///
/// # Errors
/// Rows of different lengths, an empty batch, a mask for another number of prompts, a token outside the
/// vocabulary.
pub(crate) fn check_rows<R: AsRef<[u32]>>(
    input_ids: &[R],
    attention_mask: Option<&[R]>,
    vocab_size: usize,
) -> std::result::Result<usize, TextError> {
    let expected = input_ids.first().map_or(0, |row| row.as_ref().len());
    if expected == 0 {
        return Err(TextError::Empty { rows: input_ids.len() });
    }
    let ragged = |what, rows: &[R]| {
        let mut lengths = rows.iter().map(|row| row.as_ref().len()).enumerate();
        lengths.find(|(_, got)| *got != expected).map(|(row, got)| TextError::Ragged {
            what,
            row,
            got,
            expected,
        })
    };
    if let Some(error) = ragged("token ids", input_ids) {
        return Err(error);
    }
    if let Some(mask) = attention_mask {
        if mask.len() != input_ids.len() {
            return Err(TextError::MaskRows { got: mask.len(), expected: input_ids.len() });
        }
        if let Some(error) = ragged("attention mask", mask) {
            return Err(error);
        }
    }
    match input_ids.iter().flat_map(AsRef::as_ref).find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(TextError::UnknownToken { id: *id, vocab_size }),
        None => Ok(expected),
    }
}

/// Rows of the table `[vocab_size, channels]` for rows of `length` tokens, f32 `[batch, length, channels]`.
///
/// Only these rows are widened or decoded, whatever format the table has.
pub(crate) fn embed_rows<R: AsRef<[u32]>>(table: &Matrix, input_ids: &[R], length: usize) -> Result<Tensor> {
    let rows = table.select(input_ids.iter().flat_map(AsRef::as_ref).copied().collect())?;
    let channels = rows.dim(1)?;
    rows.reshape((input_ids.len(), length, channels))
}

/// `[batch, 1, 1, length]`: 0 for tokens and the most negative f32 for padding, to be added to the scores.
pub(crate) fn mask_bias<R: AsRef<[u32]>>(mask: &[R], length: usize, device: &Device) -> Result<Tensor> {
    let values = mask.iter().flat_map(AsRef::as_ref).map(|token| if *token == 0 { f32::MIN } else { 0.0 });
    Tensor::from_iter(values, device)?.to_dtype(DType::F32)?.reshape((mask.len(), 1, 1, length))
}

/// `[batch, 1, length, length]`, or one row without a mask: 0 where the query sees the key, the most negative
/// f32 for keys after the query and for padding.
pub(crate) fn causal_bias<R: AsRef<[u32]>>(
    mask: Option<&[R]>,
    length: usize,
    device: &Device,
) -> Result<Tensor> {
    let hidden =
        |query: usize, key: usize, token: u32| if key > query || token == 0 { f32::MIN } else { 0.0 };
    let square = |row: Option<&[u32]>| -> Vec<f32> {
        let token = |key: usize| row.map_or(1, |row| row.get(key).copied().unwrap_or(0));
        (0..length).flat_map(|query| (0..length).map(move |key| hidden(query, key, token(key)))).collect()
    };
    let squares: Vec<Vec<f32>> = match mask {
        Some(mask) => mask.iter().map(|row| square(Some(row.as_ref()))).collect(),
        None => vec![square(None)],
    };
    let batch = squares.len();
    Tensor::from_vec(squares.concat(), (batch, 1, length, length), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_sees_the_tokens_up_to_itself() -> Result<()> {
        let seen = |bias: Tensor| -> Result<Vec<Vec<bool>>> {
            let rows: Vec<Vec<f32>> = bias.flatten_to(2)?.to_vec2()?;
            assert!(rows.iter().flatten().all(|bias| *bias == 0.0 || *bias == f32::MIN));
            Ok(rows.into_iter().map(|row| row.into_iter().map(|bias| bias == 0.0).collect()).collect())
        };
        let causal = [[true, false, false], [true, true, false], [true, true, true]];
        assert_eq!(seen(causal_bias::<[u32; 3]>(None, 3, &Device::Cpu)?)?, causal);
        let two = causal_bias(Some(&[[1, 1, 1], [1, 0, 0]]), 3, &Device::Cpu)?;
        assert_eq!(two.dims(), [2, 1, 3, 3]);
        let second = seen(two.narrow(0, 1, 1)?)?;
        assert_eq!(second, [[true, false, false]; 3]);
        Ok(())
    }
}
