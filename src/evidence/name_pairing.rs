//! Pairs tensor names of two models that are not equal: by replaced prefixes, then by position.
//!
//! [`super::name_order`] states the rules; this file carries them out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Prefixes of at most so many segments are replaced.
const MAX_DEPTH: usize = 7;
/// A rest of a name that more candidates share says nothing.
const MAX_SHARED_REST: usize = 8;
/// More pairs than real lists of names have; hostile ones are left unpaired.
const MAX_PAIRS: usize = 2_000_000;
/// A prefix is taken as renamed when so many different rests moved with it.
const MIN_RESTS: usize = 2;

fn is_number(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit())
}

/// The numbers among the segments.
pub(super) fn numbers(segments: &[&str]) -> String {
    let found: Vec<&str> = segments.iter().copied().filter(|s| is_number(s)).collect();
    found.join(".")
}

/// The segments with `*` for numbers.
pub(super) fn generalise(segments: &[&str]) -> String {
    let shown: Vec<&str> = segments
        .iter()
        .map(|s| if is_number(s) { "*" } else { *s })
        .collect();
    shown.join(".")
}

/// All ways to cut a name into a prefix of a few segments and a rest.
struct Cut<'a> {
    /// The prefix with `*` for numbers.
    prefix: String,
    /// The numbers in the prefix, and the rest: both stay when a prefix is replaced.
    kept: (String, &'a str),
}

fn cuts(name: &str) -> Vec<Cut<'_>> {
    let segments: Vec<&str> = name.splitn(MAX_DEPTH + 1, '.').collect();
    let mut at = 0;
    let mut cuts = Vec::new();
    for depth in 0..segments.len() {
        let prefix = &segments[..depth];
        let Some(rest) = name.get(at..) else { break };
        cuts.push(Cut {
            prefix: generalise(prefix),
            kept: (numbers(prefix), rest),
        });
        at += segments[depth].len() + 1;
    }
    cuts
}

/// Pairs the names that are still open by replacing prefixes.
pub(super) fn pair_by_prefix(
    reference: &[String],
    candidate: &[String],
    partner: &mut [Option<usize>],
    taken: &mut [bool],
) {
    let mut prefixes = Prefixes::default();
    let mut by_rest: HashMap<(String, &str), Vec<(usize, usize)>> = HashMap::new();
    for (j, name) in candidate.iter().enumerate().filter(|(j, _)| !taken[*j]) {
        for cut in cuts(name) {
            let prefix = prefixes.id(cut.prefix);
            by_rest.entry(cut.kept).or_default().push((j, prefix));
        }
    }
    let mut explained: BTreeMap<(usize, usize), Vec<Explained>> = BTreeMap::new();
    let mut n_pairs = 0;
    for i in (0..reference.len()).filter(|&i| partner[i].is_none()) {
        for cut in cuts(&reference[i]) {
            let found = by_rest.get(&cut.kept);
            let Some(found) = found.filter(|found| found.len() <= MAX_SHARED_REST) else {
                continue;
            };
            n_pairs += found.len();
            if n_pairs > MAX_PAIRS {
                return;
            }
            let from = prefixes.id(cut.prefix);
            for &(j, to) in found {
                let pair = Explained {
                    reference: i,
                    candidate: j,
                    n_rest: cut.kept.1.len(),
                };
                explained.entry((from, to)).or_default().push(pair);
            }
        }
    }
    let mut ranked: Vec<_> = explained.into_iter().collect();
    ranked.sort_by_key(|((from, to), pairs)| {
        let length = prefixes.lengths[*from] + prefixes.lengths[*to];
        (std::cmp::Reverse(pairs.len()), length)
    });
    for (_, mut pairs) in ranked {
        pairs.retain(|pair| partner[pair.reference].is_none() && !taken[pair.candidate]);
        // What moved must be recognised by more than being a weight or a bias of the same layer.
        let rests: BTreeSet<String> = pairs
            .iter()
            .filter_map(|pair| rest(&reference[pair.reference], pair.n_rest))
            .collect();
        if rests.len() < MIN_RESTS {
            continue;
        }
        for pair in pairs {
            if partner[pair.reference].is_none() && !taken[pair.candidate] {
                partner[pair.reference] = Some(pair.candidate);
                taken[pair.candidate] = true;
            }
        }
    }
}

/// Prefixes by number, so that a pair of them is small whatever their length.
#[derive(Default)]
struct Prefixes {
    ids: HashMap<String, usize>,
    lengths: Vec<usize>,
}

impl Prefixes {
    fn id(&mut self, prefix: String) -> usize {
        let length = prefix.len();
        let id = *self.ids.entry(prefix).or_insert(self.lengths.len());
        if id == self.lengths.len() {
            self.lengths.push(length);
        }
        id
    }
}

/// Two names that a replacement makes equal.
struct Explained {
    reference: usize,
    candidate: usize,
    /// Length of what both names keep, in bytes.
    n_rest: usize,
}

/// The part of a name that a replacement keeps, with `*` for numbers, if it tells modules apart.
fn rest(name: &str, n_rest: usize) -> Option<String> {
    let rest = name.get(name.len().checked_sub(n_rest)?..)?;
    let says_something = !matches!(rest, "" | "weight" | "bias");
    says_something.then(|| generalise(&rest.split('.').collect::<Vec<_>>()))
}

/// Pairs what is left by position, if most names have found their partner and every pair agrees in
/// its numbers and in its last segment.
pub(super) fn pair_by_position(
    reference: &[String],
    candidate: &[String],
    partner: &mut [Option<usize>],
    taken: &mut [bool],
) {
    let open_a: Vec<usize> = (0..reference.len())
        .filter(|&i| partner[i].is_none())
        .collect();
    let open_b: Vec<usize> = (0..candidate.len()).filter(|&j| !taken[j]).collect();
    let agree = |(&i, &j): (&usize, &usize)| {
        let a: Vec<&str> = reference[i].split('.').collect();
        let b: Vec<&str> = candidate[j].split('.').collect();
        a.last() == b.last() && numbers(&a) == numbers(&b)
    };
    let most = 2 * open_a.len() <= reference.len();
    if open_a.len() != open_b.len() || !most || !open_a.iter().zip(&open_b).all(agree) {
        return;
    }
    for (i, j) in open_a.into_iter().zip(open_b) {
        partner[i] = Some(j);
        taken[j] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired(a: &[&str], b: &[&str]) -> Vec<Option<usize>> {
        let own = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let (mut partner, mut taken) = (vec![None; a.len()], vec![false; b.len()]);
        pair_by_prefix(&own(a), &own(b), &mut partner, &mut taken);
        partner
    }

    #[test]
    fn a_prefix_is_replaced_when_two_different_rests_moved_with_it() {
        let pairs = paired(&["p.a.weight", "p.b.weight"], &["q.b.weight", "q.a.weight"]);
        assert_eq!(pairs, [Some(1), Some(0)]);
    }

    #[test]
    fn a_weight_and_a_bias_alone_are_no_prefix() {
        assert_eq!(
            paired(&["p.weight", "p.bias"], &["q.weight", "q.bias"]),
            [None, None]
        );
    }

    #[test]
    fn a_layer_keeps_its_number_under_a_replaced_prefix() {
        let a = [
            "h.0.x.weight",
            "h.0.y.weight",
            "h.1.x.weight",
            "h.1.y.weight",
        ];
        let b = [
            "l.1.x.weight",
            "l.1.y.weight",
            "l.0.x.weight",
            "l.0.y.weight",
        ];
        assert_eq!(paired(&a, &b), [Some(2), Some(3), Some(0), Some(1)]);
    }
}
