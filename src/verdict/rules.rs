//! The rules that judge one component, in order; the first that applies decides.
//!
//! Thresholds are set from the nulls of the tests or from what the published prototypes measured,
//! never from the pairs on which results are reported.

use super::finding::{Operation, Relation, Strength};
use super::words;
use crate::evidence::record::{Effect, OUTSIDE_THE_BUDGET, Status, TestRecord};

/// Links below this p, after all p-values of the audit were paid for. ln 1e-6.
const LINK_LN_P: f64 = -13.815_510_557_964_274;
/// Independence is stated only where no test came below this p. ln 1e-3.
const SUSPICION_LN_P: f64 = -6.907_755_278_982_137;
/// Share of units that must agree through the token lens, for features that all models of one text
/// learn make the agreement of independent models exceed chance.
const LENS_AGREEMENT: f64 = 0.10;
/// What was learned is kept where the leading directions of a model are in the other at least as much
/// as this share of how its trailing directions are. Copies, noise and merges give 1 by construction;
/// calibration models of `tests/zoo` (not the zoo itself): twins 0.55–0.63, long continued
/// pre-training 0.98–1.01.
const LEARNED_KEPT: f64 = 0.80;
/// A model in which less than this share of the leading energy is learned is still its initialisation.
const LEARNED_AT_ALL: f64 = 0.10;
/// Noise is called so where nearly all tensors differ by what looks Gaussian, with one σ or one
/// multiple of each tensor's spread up to this coefficient of variation.
const GAUSSIAN_TENSORS: f64 = 0.9;
const ONE_SIGMA: f64 = 0.10;
/// Components without units to match are linked by their weights alone from here on, and called
/// independent below the other: independent matrices of 10^4 entries have |cosine| < 0.05.
const COSINE_LINK: f64 = 0.80;
const COSINE_NONE: f64 = 0.10;

/// Of units of which a part was read, so many must have their partner in a re-ordered copy's part, or that copy
/// is not seen: 11 coincidences give a p below 10⁻⁶ with all looks paid for (1/11! times a dozen), and of 20
/// that are expected at least 11 are there in 99 of 100 choices of rows.
const MIN_PARTNERS: f64 = 20.0;

/// Two changes are one where they differ by no more: casting both factors to bf16 moves their product by at
/// most 2 · 2⁻⁸ of its size.
const SAME_CHANGE: f64 = 0.007_812_5;

/// Tests whose p-value can link two components.
const UNIT_TESTS: [&str; 4] = [
    "unit-permutation",
    "gate-up-matching",
    "token-lens-matching",
    "shared-initialisation",
];

/// A judgement before it is put into words.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub relation: Relation,
    pub operations: Vec<Operation>,
    pub strength: Strength,
    pub carried_by: Vec<String>,
    /// What it does not prove.
    pub caveats: Vec<String>,
}

impl Default for Judged {
    fn default() -> Self {
        Self {
            relation: Relation::Inconclusive,
            operations: Vec::new(),
            strength: Strength::None,
            carried_by: Vec::new(),
            caveats: Vec::new(),
        }
    }
}

/// How far a relation is from a plain copy: the overall relation is that of the most changed part.
pub(super) fn weight_of_change(relation: Relation) -> u8 {
    match relation {
        Relation::Identical => 1,
        Relation::Repackaged => 2,
        Relation::Quantized => 3,
        Relation::Noised => 4,
        Relation::FineTuned => 5,
        Relation::Derived => 6,
        Relation::Pruned => 7,
        Relation::Expanded => 8,
        Relation::Merged => 9,
        Relation::Disguised => 10,
        _ => 0,
    }
}

/// The value of an effect, if the test was measured.
pub(super) fn effect(records: &[&TestRecord], test: &str, name: &str) -> Option<f64> {
    records.iter().find(|r| r.test == test)?.effect(name)
}

/// ln p of a test with every p-value of the audit paid for (Bonferroni).
fn paid_ln_p(records: &[&TestRecord], test: &str, n_p_values: usize) -> Option<f64> {
    let p = records.iter().find(|r| r.test == test)?.p?;
    Some((p.ln_p() + (n_p_values as f64).ln()).min(0.0))
}

/// Strength of a link in words. A p-value bounds the likelihood ratio by 1/(−e p ln p) (Sellke, Bayarri
/// and Berger, 2001); the words then stand one step below the ENFSI scale for that ratio.
fn strength_of(ln_p: f64) -> Strength {
    let ln_ratio = -1.0 - ln_p - (-ln_p).max(1.0).ln();
    match ln_ratio / std::f64::consts::LN_10 {
        x if x >= 8.0 => Strength::ExtremelyStrong,
        x if x >= 6.0 => Strength::VeryStrong,
        x if x >= 4.0 => Strength::Strong,
        x if x >= 2.0 => Strength::Moderate,
        _ => Strength::Weak,
    }
}

/// What the unit tests say: which of them link, with the smallest p.
struct Links {
    order: bool,
    agreement: bool,
    lens: bool,
    in_place: bool,
    /// More units agree through the lens than in any independent pair of the reference population.
    unusual: bool,
    smallest: Option<f64>,
    measured: Vec<&'static str>,
}

impl Links {
    fn read(records: &[&TestRecord], n_p_values: usize) -> Self {
        let ids = UNIT_TESTS;
        let ps: Vec<Option<f64>> = ids
            .iter()
            .map(|id| paid_ln_p(records, id, n_p_values))
            .collect();
        let below = |i: usize| ps[i].is_some_and(|p| p <= LINK_LN_P);
        // The null of the lens is chance, and features that all models of one text learn exceed
        // chance. Its p therefore counts only where more units agree than in any independent pair of
        // the reference population, and links only with a good share of the units.
        let [agreement, usual] = ["agreement", "largest-agreement-of-independent-pairs"]
            .map(|name| effect(records, ids[2], name));
        let unusual = agreement.is_some_and(|share| usual.is_none_or(|usual| share > usual));
        let many = agreement.is_some_and(|share| share >= LENS_AGREEMENT);
        let lens = below(2) && unusual && many;
        let counts = |i: usize| i != 2 || (unusual && (below(2) || many));
        Self {
            order: below(0),
            agreement: below(1),
            lens,
            in_place: below(3),
            unusual,
            smallest: (0..ids.len())
                .filter(|&i| counts(i))
                .filter_map(|i| ps[i])
                .reduce(f64::min),
            measured: (0..ids.len())
                .filter(|&i| ps[i].is_some())
                .map(|i| ids[i])
                .collect(),
        }
    }

    fn any(&self) -> bool {
        self.order || self.agreement || self.lens || self.in_place
    }

    fn names(&self) -> Vec<String> {
        let all = [
            (self.order, "unit-permutation"),
            (self.agreement, "gate-up-matching"),
            (self.lens, "token-lens-matching"),
            (self.in_place, "shared-initialisation"),
        ];
        all.iter()
            .filter(|(on, _)| *on)
            .map(|(_, id)| (*id).to_owned())
            .collect()
    }
}

/// Rule 1: equal values, whatever the packaging.
fn copies(records: &[&TestRecord]) -> Option<Judged> {
    let get = |name| effect(records, "tensor-identity", name);
    if get("fraction-tensors-compared")? < 1.0 {
        return None;
    }
    let equal = get("fraction-values-equal")?;
    let bytes = get("fraction-chunk-bytes-equal")?;
    let renamed = effect(records, "tensor-correspondence", "n-renamed").unwrap_or(0.0);
    let rounded = get("fraction-values-equal-after-rounding")? >= 1.0;
    let rounded_reversed =
        get("fraction-values-equal-after-rounding-reversed").is_some_and(|f| f >= 1.0);
    let relation = if bytes >= 1.0 && renamed == 0.0 {
        Relation::Identical
    } else if equal >= 1.0 {
        Relation::Repackaged
    } else if rounded || rounded_reversed {
        Relation::Quantized
    } else {
        return None;
    };
    Some(Judged {
        relation,
        operations: match relation {
            Relation::Identical => Vec::new(),
            Relation::Quantized => vec![words::rounding(rounded, renamed)],
            other => vec![words::operation(other, &[("n_tensors_renamed", renamed)])],
        },
        strength: Strength::ExtremelyStrong,
        carried_by: vec![
            "tensor-identity".to_owned(),
            "tensor-correspondence".to_owned(),
        ],
        caveats: vec![words::NO_DIRECTION.to_owned()],
    })
}

/// Steps that shapes and tests show, in the order of application as far as it can be told.
fn operations(records: &[&TestRecord], links: &Links) -> Vec<Operation> {
    let mut steps = Vec::new();
    let structure = |name: &str| effect(records, "tensor-correspondence", name);
    let sizes = |what: &str| {
        Some((
            structure(&format!("n-{what}-reference"))?,
            structure(&format!("n-{what}-candidate"))?,
        ))
    };
    for what in ["layers", "experts", "units"] {
        if let Some((a, b)) = sizes(what)
            && a != b
        {
            let relation = if b < a {
                Relation::Pruned
            } else {
                Relation::Expanded
            };
            let parameters = [
                (format!("n_{what}_reference"), a),
                (format!("n_{what}_candidate"), b),
            ];
            let parameters: Vec<(&str, f64)> = parameters
                .iter()
                .map(|(name, value)| (name.as_str(), *value))
                .collect();
            steps.push(words::operation(relation, &parameters));
        }
    }
    let measured = |id| links.measured.contains(&id);
    let hidden_basis = links.lens && measured("gate-up-matching") && !links.agreement;
    let same_units = sizes("units").is_none_or(|(a, b)| a == b);
    let same_layers = sizes("layers").is_none_or(|(a, b)| a == b);
    let moved = effect(records, "gate-up-matching", "n-layers-moved").unwrap_or(0.0) > 0.0;
    let stands = links.order || links.in_place;
    let hidden_order = links.agreement && !stands && same_units;
    if hidden_basis || (hidden_order && measured("unit-permutation")) || (moved && same_layers) {
        steps.push(words::disguise(
            hidden_basis,
            hidden_order,
            moved && same_layers,
        ));
    }
    // Equal as far as both have it: something was left out or added, nothing was trained.
    let all_equal = effect(records, "tensor-identity", "fraction-values-equal") == Some(1.0);
    if stands && same_layers && same_units {
        if let Some(step) = noise(records) {
            steps.push(step);
        } else if let Some(in_candidate) = perhaps_rounded(records) {
            steps.push(words::perhaps_rounding(in_candidate));
        } else if steps.is_empty() && !all_equal {
            steps.push(words::operation(Relation::FineTuned, &[]));
        }
    }
    steps
}

/// Whether nothing denies that one is the other, rounded, while nothing shows it: its codes are too coarse.
/// True where the candidate is the coarser.
fn perhaps_rounded(records: &[&TestRecord]) -> Option<bool> {
    let get = |name: &str| effect(records, "tensor-identity", name);
    if get("fraction-tensors-compared")? < 1.0 {
        return None;
    }
    let whole = |name| get(name).is_some_and(|f| f >= 1.0);
    match whole("fraction-values-perhaps-rounded") {
        true => Some(true),
        false => whole("fraction-values-perhaps-rounded-reversed").then_some(false),
    }
}

/// The step that added noise, to the reference or (read backwards) to the candidate.
fn noise(records: &[&TestRecord]) -> Option<Operation> {
    let residual = |name: &str| effect(records, "residual-noise", name);
    let sigma = residual("sigma")?;
    for (suffix, in_candidate) in [("", true), ("-reversed", false)] {
        let gaussian = residual(&format!("fraction-tensors-gaussian{suffix}"))?;
        let even = [
            "sigma-variation".to_owned(),
            format!("relative-sigma-variation{suffix}"),
        ]
        .iter()
        .any(|name| residual(name).is_some_and(|v| v <= ONE_SIGMA));
        if gaussian >= GAUSSIAN_TENSORS && even {
            let relative = residual(&format!("relative-sigma{suffix}")).unwrap_or(0.0);
            return Some(words::noise(in_candidate, sigma, relative));
        }
    }
    None
}

/// Whether what one of them learned is in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learned {
    /// It is: derived.
    Kept,
    /// It is not: they share where they began.
    NotKept,
    /// One of the two learned next to nothing: a model trained from it and its twin are one thing.
    Nothing,
    /// It cannot be told.
    Unclear,
}

/// Both directions must agree, and one of them beyond its own uncertainty: a twin that was trained
/// for long looks half derived from one that was hardly trained.
fn learned(records: &[&TestRecord]) -> Learned {
    let record = records.iter().find(|r| r.test == "shared-initialisation");
    let sides = ["reference", "candidate"];
    let kept = sides.map(|of| record.and_then(|r| r.effects.get(&format!("learned-of-{of}-kept"))));
    let amount = sides.map(|of| record.and_then(|r| r.effect(&format!("learned-in-{of}"))));
    let [Some(forward), Some(backward)] = kept else {
        return Learned::Unclear;
    };
    let anything = amount
        .iter()
        .all(|a| a.is_some_and(|a| a >= LEARNED_AT_ALL));
    let low = |e: &Effect| e.interval.map_or(e.value, |(low, _)| low);
    let high = |e: &Effect| e.interval.map_or(e.value, |(_, high)| high);
    let both = [forward, backward];
    // Two models that learned nothing are equally alike in all directions.
    if !anything {
        return Learned::Nothing;
    }
    if both.iter().all(|e| e.value >= LEARNED_KEPT) && both.iter().any(|e| low(e) >= LEARNED_KEPT) {
        Learned::Kept
    } else if both.iter().all(|e| e.value < LEARNED_KEPT)
        && both.iter().any(|e| high(e) < LEARNED_KEPT)
    {
        Learned::NotKept
    } else {
        Learned::Unclear
    }
}

/// Rule 2: linked by units; then, by what is shared, derived or a twin.
fn linked(records: &[&TestRecord], links: &Links) -> Judged {
    let mut judged = Judged {
        strength: strength_of(links.smallest.unwrap_or(0.0)),
        carried_by: links.names(),
        ..Judged::default()
    };
    let decider = "shared-initialisation".to_owned();
    if !judged.carried_by.contains(&decider) {
        judged.carried_by.push(decider);
    }
    let verdict = match learned(records) {
        // No training leaves plain noise: where nothing else was added, nothing need be learned.
        Learned::Nothing if links.order && noise(records).is_some() => Learned::Kept,
        verdict => verdict,
    };
    match verdict {
        Learned::Kept => {
            judged.operations = operations(records, links);
            judged.relation = judged
                .operations
                .iter()
                .map(|step| step.relation)
                .max_by_key(|relation| weight_of_change(*relation))
                .unwrap_or(Relation::Derived);
            judged.caveats = vec![
                words::NO_DIRECTION.to_owned(),
                words::COMMON_ANCESTOR.to_owned(),
            ];
        }
        Learned::NotKept => {
            judged.relation = Relation::SharedInitialisation;
            judged.caveats = vec![words::TWIN.to_owned()];
        }
        unclear => {
            judged.relation = Relation::Inconclusive;
            judged.strength = judged.strength.min(Strength::Moderate);
            judged.caveats = vec![
                match unclear {
                    Learned::Nothing => words::UNTRAINED,
                    _ => words::TWIN_OR_CHILD,
                }
                .to_owned(),
            ];
        }
    }
    judged
}

/// Whether a test of units says that a budget may be why it does not apply.
fn unit_tests_left_out(records: &[&TestRecord]) -> bool {
    let mut of_units = records.iter().filter(|r| is_unit_test(r.test));
    of_units.any(|r| r.has_observation(OUTSIDE_THE_BUDGET))
}

/// Rule 3: no units to match; only the values can speak.
fn by_values(records: &[&TestRecord]) -> Judged {
    let mut judged = Judged {
        carried_by: vec!["weight-similarity".to_owned()],
        caveats: vec![words::NO_P_VALUE.to_owned()],
        ..Judged::default()
    };
    match effect(records, "weight-similarity", "median-centred-cosine") {
        Some(cosine) if cosine >= COSINE_LINK => {
            judged.operations = noise(records).into_iter().collect();
            judged.relation = match judged.operations.is_empty() {
                true => Relation::Derived,
                false => Relation::Noised,
            };
            judged.strength = Strength::Strong;
            judged.caveats.push(words::COMMON_ANCESTOR.to_owned());
        }
        // Units could be matched, had they been read.
        Some(_) if unit_tests_left_out(records) => {
            judged.strength = Strength::Weak;
            judged.caveats.push(words::TOO_FEW_UNITS.to_owned());
        }
        Some(cosine) if cosine.abs() < COSINE_NONE => {
            // No rotation or re-ordering was excluded: nothing stronger than this can be said.
            judged.relation = Relation::Independent;
            judged.strength = Strength::Weak;
        }
        Some(_) => judged.strength = Strength::Weak,
        None => judged.carried_by.clear(),
    }
    judged
}

/// Rule 0, where adapters were not added to a base: what they change is judged, and no unit test is asked.
fn adapters(records: &[&TestRecord]) -> Option<Judged> {
    let test = "adapter-updates";
    let get = |name| effect(records, test, name);
    if get("n-adapters")? < 2.0 {
        return Some(Judged {
            caveats: vec![words::ADAPTER_ALONE.to_owned()],
            ..Judged::default()
        });
    }
    let judged = |relation, strength, caveats: &[&str]| {
        let caveats = [words::ADAPTERS].iter().chain(caveats);
        Some(Judged {
            relation,
            strength,
            carried_by: vec![test.to_owned()],
            caveats: caveats.map(|caveat| (*caveat).to_owned()).collect(),
            ..Judged::default()
        })
    };
    // Anything but equal bytes is said by the changes themselves: casting is of the factors, not of them.
    if let Some(mut copy) = copies(records).filter(|j| j.relation == Relation::Identical) {
        copy.caveats.push(words::ADAPTERS.to_owned());
        return Some(copy);
    }
    let (Some(cosine), Some(difference)) = (
        get("median-change-cosine"),
        get("largest-relative-difference"),
    ) else {
        return judged(Relation::Inconclusive, Strength::None, &[]);
    };
    if get("fraction-modules-compared")? >= 1.0 && difference <= SAME_CHANGE {
        let mut same = judged(
            Relation::Repackaged,
            Strength::VeryStrong,
            &[words::NO_DIRECTION],
        )?;
        same.operations = vec![words::operation(Relation::Repackaged, &[])];
        return Some(same);
    }
    if cosine >= COSINE_LINK {
        let caveats = [words::NO_DIRECTION, words::SAME_DATA];
        return judged(Relation::Derived, Strength::Strong, &caveats);
    }
    let overlap = get("median-input-overlap");
    let random = get("median-input-overlap-of-random").unwrap_or(0.0);
    match overlap {
        Some(overlap) if overlap >= COSINE_LINK => judged(
            Relation::Inconclusive,
            Strength::Moderate,
            &[words::SAME_FACTORS],
        ),
        Some(overlap) if overlap - random < COSINE_NONE && cosine.abs() < COSINE_NONE => judged(
            Relation::Independent,
            Strength::Moderate,
            &[words::ADAPTERS_INDEPENDENT],
        ),
        _ => judged(
            Relation::Inconclusive,
            Strength::Weak,
            &[words::ADAPTERS_ALIKE],
        ),
    }
}

/// Judges one component from its records.
pub(super) fn component(records: &[&TestRecord], n_p_values: usize) -> Judged {
    if let Some(adapters) = adapters(records) {
        return adapters;
    }
    if let Some(copy) = copies(records) {
        return copy;
    }
    let links = Links::read(records, n_p_values);
    if links.any() {
        return linked(records, &links);
    }
    if records
        .iter()
        .any(|r| r.status == Status::Failed && r.p.is_none() && is_unit_test(r.test))
    {
        return Judged {
            caveats: vec![words::FAILED.to_owned()],
            ..Judged::default()
        };
    }
    if links.measured.is_empty() {
        return by_values(records);
    }
    let carried_by = links.measured.iter().map(|id| (*id).to_owned()).collect();
    if links.smallest.is_some_and(|ln_p| ln_p < SUSPICION_LN_P) {
        return Judged {
            strength: Strength::Weak,
            carried_by,
            caveats: vec![words::SUSPICION.to_owned()],
            ..Judged::default()
        };
    }
    // Equal content of a good part of the tensors is more than independence allows.
    let content = effect(
        records,
        "tensor-correspondence",
        "fraction-paired-by-content",
    );
    let alike = effect(records, "weight-similarity", "median-centred-cosine");
    if alike.is_some_and(|cosine| cosine >= COSINE_LINK) && content.is_some_and(|f| f >= 0.5) {
        return by_values(records);
    }
    // Read in part: a copy that was re-ordered must have been within reach, or nothing is said against it.
    let of_units = |name| {
        let tests = ["gate-up-matching", "token-lens-matching"].iter();
        tests
            .filter_map(|test| effect(records, test, name))
            .reduce(f64::max)
    };
    let partners = of_units("n-partners-if-reordered");
    if partners.is_some_and(|n| n < MIN_PARTNERS) {
        return Judged {
            strength: Strength::Weak,
            carried_by,
            caveats: vec![words::TOO_FEW_UNITS.to_owned()],
            ..Judged::default()
        };
    }
    let layers_left_out = of_units("fraction-layers-read").is_some_and(|share| share < 1.0);
    let in_part = partners.is_some() || layers_left_out;
    let through_lens = links.measured.contains(&"token-lens-matching");
    let mut caveats = vec![words::INDEPENDENT.to_owned()];
    if layers_left_out {
        caveats.push(words::LAYERS_NOT_READ.to_owned());
    }
    if !through_lens {
        caveats.push(words::NO_LENS.to_owned());
    } else if links.unusual {
        caveats.push(words::LENS_UNUSUAL.to_owned());
    }
    Judged {
        relation: Relation::Independent,
        strength: if through_lens && !links.unusual && !in_part {
            Strength::Strong
        } else {
            Strength::Moderate
        },
        carried_by,
        caveats,
        ..Judged::default()
    }
}

fn is_unit_test(test: &str) -> bool {
    UNIT_TESTS.contains(&test)
}
