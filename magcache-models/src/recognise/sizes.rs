//! The sizes of a model from the shapes of its tensors.

use std::collections::BTreeMap;

use super::Layout;
use crate::checkpoint::Weights;

/// Letters and their values.
type Sizes = BTreeMap<String, usize>;

/// The sizes that the tensors behind `prefix` give; without those that none of them gives.
pub(super) fn of(layout: &Layout, weights: &Weights, prefix: &str) -> Sizes {
    let mut sizes = Sizes::new();
    let all = || layout.tensors.iter().chain(layout.options.iter().flatten());
    for (name, _) in all() {
        if let Some((list, letter)) = list_of(name) {
            let count = weights.count(&format!("{prefix}{list}"));
            sizes.entry(letter.to_owned()).or_insert(count);
        }
    }
    // Every turn may give what the next one needs.
    loop {
        let before = sizes.len();
        for (name, shape) in all() {
            let first = name.split(['{', '}']).enumerate();
            let first: String = first.map(|(i, part)| if i % 2 == 1 { "0" } else { part }).collect();
            if let Some(found) = weights.shape(&format!("{prefix}{first}")) {
                learn(shape, found, &mut sizes);
            }
        }
        if sizes.len() == before {
            return sizes;
        }
    }
}

/// The list that a name with a letter in braces belongs to, and the letter.
pub(super) fn list_of(name: &str) -> Option<(&str, &str)> {
    let (list, rest) = name.split_once(".{")?;
    Some((list, rest.split_once('}')?.0))
}

/// What one tensor says: of an axis that is one letter or one letter times others that are known; or, where
/// axes are folded, of the only letter that is not known.
fn learn(shape: &str, found: &[usize], sizes: &mut Sizes) {
    let axes: Vec<&str> = shape.split(',').collect();
    if axes.len() == found.len() {
        for (axis, length) in axes.iter().zip(found) {
            if !axis.contains('+') {
                solve(axis, *length, sizes);
            }
        }
    } else if !shape.contains('+') {
        solve(&shape.replace(',', "*"), found.iter().product(), sizes);
    }
}

/// Finds the only unknown factor of a product.
fn solve(product: &str, value: usize, sizes: &mut Sizes) {
    let (mut known, mut unknown) = (1usize, Vec::new());
    for factor in product.split('*') {
        match number(factor, sizes) {
            Some(factor) => known = known.saturating_mul(factor),
            None => unknown.push(factor),
        }
    }
    if let ([letter], Some(size)) = (unknown.as_slice(), value.checked_div(known))
        && size.saturating_mul(known) == value
    {
        sizes.insert((*letter).to_owned(), size);
    }
}

fn number(factor: &str, sizes: &Sizes) -> Option<usize> {
    factor.parse().ok().or_else(|| sizes.get(factor).copied())
}

/// A shape in numbers; `None` if a size is not known.
pub(super) fn shape(written: &str, sizes: &Sizes) -> Option<Vec<usize>> {
    let product = |product: &str| {
        product.split('*').try_fold(1usize, |all, factor| all.checked_mul(number(factor, sizes)?))
    };
    let axis = |axis: &str| axis.split('+').try_fold(0usize, |all, term| all.checked_add(product(term)?));
    written.split(',').map(axis).collect()
}
