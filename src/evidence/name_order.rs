//! Names of tensors: the few renamings that explain many names, found from pairs or from the names alone.
//!
//! Two published models can be compared by the names in their shard indices before a single weight is
//! fetched. Equal names are common between unrelated models of one library; equal names *after* a
//! renaming, in equal order, are rarer.

use super::name_pairing::{generalise, numbers, pair_by_position, pair_by_prefix};
use super::record::Renaming;
use std::collections::HashMap;

/// A report shows at most this many lines; the last one counts the rest.
const MAX_LINES: usize = 200;
/// Beyond these sizes only equal names are looked for.
const MAX_NAMES: usize = 200_000;
const MAX_NAME_BYTES: usize = 16 << 20;

/// What the names of two models have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct NameOrder {
    /// Names in the reference.
    pub n_reference: usize,
    /// Names in the candidate.
    pub n_candidate: usize,
    /// Names that both have as they are.
    pub n_equal: usize,
    /// Names that both have once the renamings are undone, the equal ones included.
    pub n_common_after_renaming: usize,
    /// Whether the common names stand in the same order in both.
    pub order_equal: bool,
    /// The renamings, with a line for the names that did not change.
    pub renamings: Vec<Renaming>,
    /// False where there were too many names to look for renamings.
    pub renamings_sought: bool,
}

impl NameOrder {
    /// Whether each name of either side has its counterpart on the other.
    pub fn all_common(&self) -> bool {
        self.n_common_after_renaming == self.n_reference
            && self.n_common_after_renaming == self.n_candidate
    }

    /// Share of the longer list that has a counterpart; `None` for two empty lists.
    pub fn fraction_common(&self) -> Option<f64> {
        let n = self.n_reference.max(self.n_candidate);
        (n > 0).then(|| self.n_common_after_renaming as f64 / n as f64)
    }

    /// Names that were changed.
    pub fn n_renamed(&self) -> usize {
        self.n_common_after_renaming - self.n_equal
    }
}

/// Collapses pairs of names (reference, candidate, basis) into prefix renamings, the most frequent first.
///
/// Common trailing segments are removed and equal numbers become `*`, so that one line stands for all
/// tensors that were renamed alike; names that did not change share one line for each basis.
pub fn summarise(names: &[(String, String, &'static str)]) -> Vec<Renaming> {
    let mut lines: Vec<Renaming> = Vec::new();
    let mut by_line: HashMap<(String, String, &str), usize> = HashMap::new();
    for (reference, candidate, basis) in names {
        let (from, to) = substitution(reference, candidate);
        let at = *by_line
            .entry((from.clone(), to.clone(), basis))
            .or_insert(lines.len());
        if at == lines.len() {
            let basis = (*basis).to_owned();
            lines.push(Renaming {
                reference: from,
                candidate: to,
                n_tensors: 0,
                basis,
            });
        }
        lines[at].n_tensors += 1;
    }
    // Stable: lines of equal weight stay in the order of the names.
    lines.sort_by_key(|line| std::cmp::Reverse(line.n_tensors));
    if lines.len() > MAX_LINES {
        let rest = lines.split_off(MAX_LINES - 1);
        let text = format!("({} more lines)", rest.len());
        lines.push(Renaming {
            reference: text.clone(),
            candidate: text,
            n_tensors: rest.iter().map(|line| line.n_tensors).sum(),
            basis: "summary".to_owned(),
        });
    }
    lines
}

/// The differing prefixes of two names, with `*` for the numbers where both have the same.
fn substitution(reference: &str, candidate: &str) -> (String, String) {
    if reference == candidate {
        return ("(unchanged)".to_owned(), "(unchanged)".to_owned());
    }
    let a: Vec<&str> = reference.split('.').collect();
    let b: Vec<&str> = candidate.split('.').collect();
    let n_equal = a
        .iter()
        .rev()
        .zip(b.iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let (a, b) = (&a[..a.len() - n_equal], &b[..b.len() - n_equal]);
    let same_numbers = numbers(a) == numbers(b);
    let show = |prefix: &[&str]| {
        let mut text = if same_numbers {
            generalise(prefix)
        } else {
            prefix.join(".")
        };
        if n_equal > 0 && !prefix.is_empty() {
            text.push('.');
        }
        text
    };
    (show(a), show(b))
}

/// Finds, without any weights, the fewest prefix renamings that make two lists of names equal.
///
/// Equal names are counterparts. Of the others, every replacement of a prefix that turns a reference
/// name into a candidate name is counted; the one that explains most names is taken first, of equals
/// the shortest. This is greedy: a smaller set may exist where replacements overlap. A replacement
/// under which only a `weight` or `bias` moved is none, or names of any two networks would match; what
/// is then left of lists of equal length is paired by position if all of it agrees.
pub fn compare_names(reference: &[String], candidate: &[String]) -> NameOrder {
    let mut partner: Vec<Option<usize>> = vec![None; reference.len()];
    let mut taken = vec![false; candidate.len()];
    let positions: HashMap<&str, usize> = candidate
        .iter()
        .enumerate()
        .rev()
        .map(|(i, name)| (name.as_str(), i))
        .collect();
    for (i, name) in reference.iter().enumerate() {
        if let Some(&j) = positions.get(name.as_str()).filter(|&&j| !taken[j]) {
            partner[i] = Some(j);
            taken[j] = true;
        }
    }
    let n_equal = partner.iter().flatten().count();
    let n_bytes: usize = reference.iter().chain(candidate).map(String::len).sum();
    let renamings_sought =
        reference.len().max(candidate.len()) <= MAX_NAMES && n_bytes <= MAX_NAME_BYTES;
    if renamings_sought {
        pair_by_prefix(reference, candidate, &mut partner, &mut taken);
        pair_by_position(reference, candidate, &mut partner, &mut taken);
    }
    let common: Vec<(usize, usize)> = partner
        .iter()
        .enumerate()
        .filter_map(|(i, j)| Some((i, (*j)?)))
        .collect();
    let names: Vec<(String, String, &'static str)> = common
        .iter()
        .map(|&(i, j)| (reference[i].clone(), candidate[j].clone(), "name"))
        .collect();
    NameOrder {
        n_reference: reference.len(),
        n_candidate: candidate.len(),
        n_equal,
        n_common_after_renaming: common.len(),
        order_equal: common.windows(2).all(|w| w[0].1 < w[1].1),
        renamings: summarise(&names),
        renamings_sought,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn layers(prefix: &str, rests: &[&str]) -> Vec<String> {
        (0..12)
            .flat_map(|l| rests.iter().map(move |rest| format!("{prefix}.{l}.{rest}")))
            .collect()
    }

    fn line<'a>(found: &'a NameOrder, reference: &str) -> &'a Renaming {
        found
            .renamings
            .iter()
            .find(|r| r.reference == reference)
            .unwrap()
    }

    #[test]
    fn a_renamed_prefix_is_one_line_for_all_its_tensors() {
        let mut a = names(&[
            "llm.embed.weight",
            "resampler.attn.weight",
            "resampler.query",
        ]);
        a.extend(layers("vpm.encoder.layers", &["fc1.weight", "fc2.weight"]));
        let b: Vec<String> = a
            .iter()
            .map(|n| {
                n.replace("vpm.", "vison.")
                    .replace("resampler.", "projection.")
            })
            .collect();
        let found = compare_names(&a, &b);
        assert!(found.all_common() && found.order_equal);
        assert_eq!((found.n_equal, found.n_renamed()), (1, 26));
        assert_eq!(line(&found, "vpm.").candidate, "vison.");
        assert_eq!(line(&found, "vpm.").n_tensors, 24);
        assert_eq!(line(&found, "resampler.").candidate, "projection.");
        assert_eq!(found.renamings.len(), 3);
    }

    #[test]
    fn layer_numbers_become_stars_where_both_sides_agree() {
        let a = layers(
            "model.layers",
            &["q.weight", "k.weight", "w1.weight", "w3.weight"],
        );
        let b = layers(
            "model.layers",
            &["q.weight", "k.weight", "gate.weight", "up.weight"],
        );
        let found = compare_names(&a, &b);
        assert!(found.all_common());
        assert_eq!(
            line(&found, "model.layers.*.w1.").candidate,
            "model.layers.*.gate."
        );
        let mut found = found;
        found.renamings.retain(|r| r.reference != "(unchanged)");
        assert!(found.renamings.iter().all(|r| r.n_tensors == 12));
        let moved = [("h.0.w".to_owned(), "h.1.w".to_owned(), "content")];
        assert_eq!(summarise(&moved)[0].reference, "h.0.");
        assert_eq!(summarise(&moved)[0].candidate, "h.1.");
    }

    #[test]
    fn added_and_removed_prefixes_are_found() {
        let a = layers("layers", &["q.weight", "k.weight"]);
        let b: Vec<String> = a
            .iter()
            .map(|n| format!("language_model.model.{n}"))
            .collect();
        let found = compare_names(&a, &b);
        assert!(found.all_common() && found.order_equal);
        assert_eq!(found.renamings.len(), 1);
        assert_eq!(found.renamings[0].candidate, "language_model.model.");
        assert!(compare_names(&b, &a).all_common());
    }

    #[test]
    fn another_order_is_seen() {
        let a = layers("x", &["q.weight", "k.weight"]);
        let mut b: Vec<String> = a.iter().map(|n| n.replace("x.", "y.")).collect();
        b.reverse();
        let found = compare_names(&a, &b);
        assert!(found.all_common() && !found.order_equal);
    }

    #[test]
    fn names_without_anything_in_common_stay_apart() {
        let found = compare_names(&names(&["a.b", "c.d"]), &names(&["e.f", "g.h", "i"]));
        assert_eq!(found.n_common_after_renaming, 0);
        assert_eq!(found.fraction_common(), Some(0.0));
        assert!(found.renamings.is_empty());
        assert_eq!(compare_names(&[], &[]).fraction_common(), None);
    }

    #[test]
    fn networks_of_another_library_do_not_match_by_weight_and_bias() {
        let gpt2 = layers(
            "h",
            &["attn.c_attn.weight", "attn.c_attn.bias", "mlp.c_fc.weight"],
        );
        let llama = layers(
            "model.layers",
            &["self_attn.q.weight", "self_attn.q.bias", "up.weight"],
        );
        assert_eq!(compare_names(&gpt2, &llama).n_common_after_renaming, 0);
    }

    #[test]
    fn repeated_and_odd_names_are_counted_once_each() {
        let a = names(&["x", "x", "", "...", "é.w"]);
        let b = names(&["x", ".", "...", "é.w", "é.w"]);
        let found = compare_names(&a, &b);
        assert!(found.n_common_after_renaming <= 5);
        assert_eq!(found.n_equal, 3);
    }

    #[test]
    fn at_most_two_hundred_lines_are_printed_and_the_rest_is_counted() {
        let pairs: Vec<(String, String, &'static str)> = (0..300)
            .map(|i| (format!("a{i}"), format!("b{i}"), "content"))
            .collect();
        let lines = summarise(&pairs);
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines.iter().map(|l| l.n_tensors).sum::<u64>(), 300);
        assert_eq!(lines[MAX_LINES - 1].reference, "(101 more lines)");
    }

    #[test]
    fn a_renamed_mixture_of_many_experts_is_paired_in_full() {
        let names = |head: &str| -> Vec<String> {
            let experts = (0..60).flat_map(|l| (0..128).map(move |e| (l, e)));
            let of =
                |(l, e)| ["up", "gate", "down"].map(|m| format!("{head}.{l}.x.{e}.{m}.weight"));
            experts.flat_map(of).collect()
        };
        let found = compare_names(&names("model.layers"), &names("net.h"));
        assert!(found.all_common() && found.order_equal);
        assert_eq!(found.renamings.len(), 1);
    }

    #[test]
    fn a_great_many_names_are_compared_without_renamings() {
        let a: Vec<String> = (0..=MAX_NAMES).map(|i| format!("a.{i}")).collect();
        let b: Vec<String> = (0..=MAX_NAMES).map(|i| format!("b.{i}")).collect();
        assert!(!compare_names(&a, &b).renamings_sought);
        assert!(compare_names(&a, &a).all_common());
    }
}
