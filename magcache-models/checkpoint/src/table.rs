//! Tables of module names, and the lookup of tensor names in them.

use super::Mapped;

/// One line of a table: a module of the native layout and its counterpart in ours.
///
/// A segment `*` of the native name stands for a number, which replaces the next `*` in ours.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Name in the native layout.
    pub native: &'static str,
    /// Name here.
    pub ours: &'static str,
    /// What is done to the tensors.
    pub operation: Operation,
}

/// What happens to the tensors of a module besides renaming.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Nothing.
    Rename,
    /// Drops leading axes of length 1.
    Squeeze,
    /// A kernel of one pixel becomes a matrix.
    Matrix,
    /// Splits the first axis into parts: names that replace `{}`, and relative sizes.
    Split(&'static [(&'static str, usize)]),
    /// Swaps the halves of the first axis.
    Swap,
    /// The model has no such tensor.
    Omit,
}

/// Another name and nothing else.
pub const fn rename(native: &'static str, ours: &'static str) -> Rule {
    Rule { native, ours, operation: Operation::Rename }
}

/// Parts of the first axis: names that replace `{}`, and relative sizes.
pub const fn split(
    native: &'static str,
    ours: &'static str,
    shares: &'static [(&'static str, usize)],
) -> Rule {
    Rule { native, ours, operation: Operation::Split(shares) }
}

/// Swaps the halves of the first axis.
pub const fn swap(native: &'static str, ours: &'static str) -> Rule {
    Rule { native, ours, operation: Operation::Swap }
}

/// Parameter names of a module; a tensor may also have the module's name alone.
const PARAMETERS: [&str; 3] = ["weight", "bias", "gamma"];

/// The tensor's mapping according to the table; `None` if it is not listed.
pub fn look_up(table: &[Rule], name: &str) -> Option<Mapped> {
    table.iter().find_map(|rule| rule.apply(name))
}

impl Rule {
    fn apply(&self, name: &str) -> Option<Mapped> {
        if let Operation::Omit = self.operation {
            return name.starts_with(self.native).then_some(Mapped::Omitted);
        }
        let (numbers, parameter) = matched(self.native, name)?;
        let mut numbers = numbers.into_iter();
        let module: Vec<&str> = self
            .ours
            .split('.')
            .map(|segment| if segment == "*" { numbers.next().unwrap_or(segment) } else { segment })
            .collect();
        let ours = format!("{}{parameter}", module.join("."));
        Some(match self.operation {
            Operation::Squeeze => Mapped::Squeezed(ours),
            Operation::Matrix => Mapped::Matrix(ours),
            Operation::Split(shares) => {
                Mapped::Split(shares.iter().map(|(name, size)| (ours.replace("{}", name), *size)).collect())
            }
            Operation::Swap => Mapped::Swapped(ours),
            _ => Mapped::Same(ours),
        })
    }
}

/// The numbers matched by `*`, and the rest of the name after the module, including the dot.
fn matched<'n>(pattern: &str, name: &'n str) -> Option<(Vec<&'n str>, &'n str)> {
    let (mut rest, mut numbers) = (name, Vec::new());
    for segment in pattern.split('.') {
        let (head, tail) = rest.split_once('.').unwrap_or((rest, ""));
        match segment {
            "*" if head.bytes().all(|byte| byte.is_ascii_digit()) && !head.is_empty() => numbers.push(head),
            _ if segment == head => {}
            _ => return None,
        }
        rest = tail;
    }
    let module_ends = name.len() - rest.len();
    if rest.is_empty() {
        return Some((numbers, ""));
    }
    PARAMETERS.contains(&rest).then(|| (numbers, name.get(module_ends - 1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [Rule; 5] = [
        rename("blocks.*.attn.*", "layer.*.x.*.y"),
        Rule { native: "pos", ours: "position.weight", operation: Operation::Squeeze },
        split("b.*.qkv", "a.*.{}.p", &[("q", 1), ("k", 2)]),
        swap("head", "norm.linear"),
        Rule { native: "textual.", ours: "", operation: Operation::Omit },
    ];

    #[test]
    fn modules_match_whole_and_numbers_move() {
        let same = |name: &str| Some(Mapped::Same(name.into()));
        assert_eq!(look_up(&TABLE, "blocks.12.attn.3.bias"), same("layer.12.x.3.y.bias"));
        assert_eq!(look_up(&TABLE, "blocks.12.attn.3"), same("layer.12.x.3.y"));
        assert_eq!(look_up(&TABLE, "pos"), Some(Mapped::Squeezed("position.weight".into())));
        let shares = vec![("a.7.q.p.weight".into(), 1), ("a.7.k.p.weight".into(), 2)];
        assert_eq!(look_up(&TABLE, "b.7.qkv.weight"), Some(Mapped::Split(shares)));
        assert_eq!(look_up(&TABLE, "head.bias"), Some(Mapped::Swapped("norm.linear.bias".into())));
        assert_eq!(look_up(&TABLE, "textual.any.thing"), Some(Mapped::Omitted));
        for other in
            ["blocks.x.attn.3.bias", "blocks.1.attn.3.scale", "blocks.1.attn", "blocks..attn.3", "posi", ""]
        {
            assert_eq!(look_up(&TABLE, other), None, "{other}");
        }
    }
}
