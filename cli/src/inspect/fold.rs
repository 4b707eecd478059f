//! The tensors of all layers in one line: `blk.*.attn_q.weight` instead of one for each.

use std::collections::HashMap;
use std::hash::Hash;

/// Tensors whose names differ in numbers alone, and that are of one kind.
pub struct Line<K> {
    pattern: String,
    pub kind: K,
    /// Which tensors they are, in their order.
    members: Vec<usize>,
    first: String,
}

impl<K> Line<K> {
    /// The name, or what the names share and how many there are.
    pub fn name(&self) -> String {
        match self.members.len() {
            1 => self.first.clone(),
            n => format!("{} ({n})", self.pattern),
        }
    }

    /// What `value` is of the members, by `text`: the least and the greatest if they differ.
    pub fn range<V: PartialOrd + Copy>(
        &self,
        value: impl Fn(usize) -> V,
        text: impl Fn(V) -> String,
    ) -> String {
        let first = value(self.members[0]);
        let (mut low, mut high) = (first, first);
        for &at in &self.members {
            let next = value(at);
            low = if next < low { next } else { low };
            high = if next > high { next } else { high };
        }
        match (text(low), text(high)) {
            (low, high) if low == high => low,
            (low, high) => format!("{}..{high}", low.trim_end_matches(" %")),
        }
    }
}

/// The lines of tensors by their names and kinds, each tensor by itself if `all`.
pub fn fold<'a, K: Hash + Eq + Clone>(
    names: impl Iterator<Item = &'a str>,
    kind: impl Fn(usize) -> K,
    all: bool,
) -> Vec<Line<K>> {
    let mut lines: Vec<Line<K>> = Vec::new();
    let mut found: HashMap<(String, K), usize> = HashMap::new();
    for (at, name) in names.enumerate() {
        let (pattern, kind) = (pattern(name), kind(at));
        let line = match all {
            true => None,
            false => found.get(&(pattern.clone(), kind.clone())),
        };
        if let Some(&line) = line {
            lines[line].members.push(at);
            continue;
        }
        found.insert((pattern.clone(), kind.clone()), lines.len());
        lines.push(Line {
            pattern,
            kind,
            members: vec![at],
            first: name.to_owned(),
        });
    }
    lines
}

/// The name with `*` for each part that is a number.
fn pattern(name: &str) -> String {
    let part = |part: &str| match !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
        true => "*".to_owned(),
        false => part.to_owned(),
    };
    let parts: Vec<String> = name.split('.').map(part).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_fold_and_kinds_do_not() {
        let names = ["blk.0.q", "norm", "blk.1.q", "blk.2.q"];
        let kinds = [1, 1, 1, 2];
        let lines = fold(names.into_iter(), |at| kinds[at], false);
        let all: Vec<String> = lines.iter().map(Line::name).collect();
        assert_eq!(all, ["blk.*.q (2)", "norm", "blk.2.q"]);
        let range = |line: &Line<i32>| line.range(|at| at, |at| format!("{at} %"));
        assert_eq!(range(&lines[0]), "0..2 %");
        assert_eq!(range(&lines[1]), "1 %");
        assert_eq!(fold(names.into_iter(), |at| kinds[at], true).len(), 4);
    }
}
