//! Names of an adapter's tensors: which part of which module, and what the base model calls it.

use std::collections::HashMap;

/// What a stored tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `[rank, in]`.
    A,
    /// `[out, rank]`.
    B,
    /// `[rank, n_embeddings]`.
    EmbeddingA,
    /// `[hidden_size, rank]`.
    EmbeddingB,
    /// `[out]` (DoRA).
    Magnitude,
}

/// Endings of the names of parts.
const ENDINGS: &[(&str, Part)] = &[
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_embedding_A", Part::EmbeddingA),
    (".lora_embedding_B", Part::EmbeddingB),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
];
/// Segments that say how PEFT wrapped a module, not where it stands in the base.
const WRAPPERS: &[&str] = &["base_layer", "modules_to_save", "original_module"];

/// The module and the part that a name is of, if it is of one.
pub(super) fn part_of(name: &str) -> Option<(&str, Part)> {
    ENDINGS
        .iter()
        .find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)))
}

/// The base's name of a tensor that is stored whole.
pub(super) fn replaced(name: &str) -> String {
    let segments = name.split('.').filter(|s| !WRAPPERS.contains(s));
    segments.collect::<Vec<_>>().join(".")
}

/// How the base's file calls what the adapter names after the model in memory: files often lack the outermost
/// name (`h.0…` for `transformer.h.0…`), or have it where the adapter was made for the inner model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rename {
    /// As it is.
    Same,
    /// Without so many of the first bytes.
    Without(usize),
    /// With this before it.
    With(String),
}

impl Rename {
    /// The renaming under which the base has most of the names; as they are where none is better.
    pub(super) fn find(wanted: &[String], places: &HashMap<String, usize>) -> Self {
        let n_found = |rename: &Self| {
            let names = wanted.iter().map(|name| rename.of(name));
            names.filter(|name| places.contains_key(name)).count()
        };
        let mut best = (n_found(&Self::Same), Self::Same);
        let Some(first) = wanted.first() else {
            return Self::Same;
        };
        let cuts = first.match_indices('.').take(2).map(|(at, _)| at + 1);
        let mut others: Vec<Self> = cuts.map(Self::Without).collect();
        let ending = format!(".{first}");
        let mut longer: Vec<&str> = places
            .keys()
            .filter_map(|name| name.strip_suffix(&ending))
            .collect();
        longer.sort_unstable();
        others.extend(
            longer
                .iter()
                .take(8)
                .map(|before| Self::With(format!("{before}."))),
        );
        for other in others {
            let n = n_found(&other);
            if n > best.0 {
                best = (n, other);
            }
        }
        best.1
    }

    /// A name as the base has it.
    pub(super) fn of(&self, name: &str) -> String {
        match self {
            Self::Same => name.to_owned(),
            Self::Without(n) => name.get(*n..).unwrap_or(name).to_owned(),
            Self::With(before) => format!("{before}{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[&str]) -> HashMap<String, usize> {
        let names = names.iter().enumerate();
        names.map(|(at, name)| ((*name).to_owned(), at)).collect()
    }

    #[test]
    fn the_outermost_name_may_be_missing_on_either_side() {
        let wanted = ["transformer.h.0.attn.weight".to_owned()];
        let found = Rename::find(&wanted, &places(&["h.0.attn.weight", "wte.weight"]));
        assert_eq!(found.of(&wanted[0]), "h.0.attn.weight");
        let wanted = ["layers.0.q.weight".to_owned()];
        let found = Rename::find(&wanted, &places(&["model.layers.0.q.weight"]));
        assert_eq!(found.of(&wanted[0]), "model.layers.0.q.weight");
        assert_eq!(Rename::find(&wanted, &places(&["x.weight"])), Rename::Same);
        assert_eq!(Rename::find(&[], &places(&["x"])), Rename::Same);
    }

    #[test]
    fn parts_and_wrappers_are_told_from_the_names() {
        assert_eq!(part_of("m.q.lora_A.weight"), Some(("m.q", Part::A)));
        assert_eq!(part_of("m.q.weight"), None);
        assert_eq!(replaced("m.embed.base_layer.weight"), "m.embed.weight");
        assert_eq!(replaced("m.norm.modules_to_save.weight"), "m.norm.weight");
    }
}
