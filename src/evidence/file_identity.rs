//! `file-identity`: are files of both models the same, byte for byte, and are the tensors' names?
//!
//! Files are compared by digest, names by the published index or the checkpoint; no weight is read.

use super::context::{EvidenceError, Settings};
use super::digests::{Count, Digests, Match};
use super::excerpt;
use super::name_order::{self, NameOrder};
use super::pair::Pair;
use super::record::{Detail, Observation, TestRecord};
use super::spec::{Need, Scope, TestSpec};
use super::{Run, Test};
use crate::arch::artefact::{Artefacts, FileEntry};

static SPEC: TestSpec = TestSpec {
    id: "file-identity",
    title: "Equal files and tensor names",
    question: "Which files of the two models are the same, byte for byte, and are their tensors named \
               alike, going by the index alone?",
    scope: Scope::Model,
    needs: &[Need::Files],
    null: None,
    p_value: None,
    survives: "moving and renaming files; renaming whole groups of tensors",
    defeated_by: "any change of a file; new names without a rule",
    citation: "modelkin",
};

/// The registered test.
pub const TEST: Test = Test {
    spec: &SPEC,
    run: Run::Model(run),
};

/// Equal files that are listed one by one.
const MAX_LISTED: usize = 50;

const WEIGHT_EXTENSIONS: &[&str] = &[
    "safetensors",
    "bin",
    "pt",
    "pth",
    "gguf",
    "ckpt",
    "npz",
    "onnx",
];
/// Files of a training run that carry a weight's extension and no weights.
const TRAINING_STATE: &[&str] = &["training_args", "optimizer", "scheduler", "rng_state"];
/// Beginnings of names under which unrelated repositories hold equal files.
const GENERIC: &[&str] = &[".git", "license", "licence", "notice", "copying"];

/// The last segment of a path, in lower case.
fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase()
}

fn is_weights(file: &FileEntry) -> bool {
    let name = file_name(&file.path);
    let state = TRAINING_STATE.iter().any(|start| name.starts_with(start));
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    !state && extension.is_some_and(|e| WEIGHT_EXTENSIONS.contains(&e))
}

/// Whether an equal file says nothing: empty, or the same in any number of repositories.
fn is_generic(file: &FileEntry) -> bool {
    let name = file_name(&file.path);
    file.size_bytes == 0 || GENERIC.iter().any(|start| name.starts_with(start))
}

fn run(pair: &Pair, _: &Settings) -> Result<TestRecord, EvidenceError> {
    let mut record = TestRecord::measured(SPEC.id, "model");
    let mut seen = Vec::new();
    let has_files = |a: &Artefacts| a.files.iter().any(|f| !is_generic(f));
    let (a, b) = (&pair.reference.artefacts, &pair.candidate.artefacts);
    if has_files(a) && has_files(b) {
        record = files(record, a, b, &mut seen);
    }
    let names = (pair.reference.tensor_names(), pair.candidate.tensor_names());
    if !names.0.is_empty() && !names.1.is_empty() {
        let found = name_order::compare_names(&names.0, &names.1);
        record = tensor_names(record, &found, &mut seen);
    }
    let declared = |model: &crate::arch::Model| model.declared.as_ref()?.total_size;
    if let (Some(x), Some(y)) = (declared(pair.reference), declared(pair.candidate)) {
        record = record.with_effect("declared-total-size-equal", f64::from(u8::from(x == y)));
        if x == y {
            seen.push(Observation {
                code: "declared-total-size-equal".to_owned(),
                message: format!("Both indices declare the same size of all weights, {x} bytes."),
                file: pair
                    .candidate
                    .declared
                    .as_ref()
                    .map(|index| index.file.clone()),
            });
        }
    }
    if record.effects.is_empty() {
        let reason = "one of the two has neither files whose content was digested nor tensor names";
        return Ok(TestRecord::not_applicable(SPEC.id, "model", reason));
    }
    Ok(if seen.is_empty() {
        record
    } else {
        record.with_detail(Detail::Observations(seen))
    })
}

/// Files of both sides that say something, by digest.
fn files(
    mut record: TestRecord,
    reference: &Artefacts,
    candidate: &Artefacts,
    seen: &mut Vec<Observation>,
) -> TestRecord {
    let sides = (Digests::new(reference), Digests::new(candidate));
    let (mut all, mut weights) = (Count::default(), Count::default());
    let (mut n_equal, mut n_renamed, mut n_weights) = (0usize, 0usize, [0usize; 2]);
    let of_both = [(reference, &sides.1), (candidate, &sides.0)];
    for (side, (artefacts, other)) in of_both.into_iter().enumerate() {
        for file in artefacts.files.iter().filter(|f| !is_generic(f)) {
            let found = other.find(file);
            all.add(found);
            if is_weights(file) {
                weights.add(found);
                n_weights[side] += 1;
            }
            let Match::Equal(equal) = found else { continue };
            if side == 0 {
                n_equal += 1;
                n_renamed += usize::from(equal.path != file.path);
                if n_equal <= MAX_LISTED {
                    seen.push(equal_file(file, equal));
                }
            }
        }
    }
    if n_equal > MAX_LISTED {
        seen.push(Observation {
            code: "equal-files-not-listed".to_owned(),
            message: format!("{} more files are equal.", n_equal - MAX_LISTED),
            file: None,
        });
    }
    let stated = |artefacts: &Artefacts| {
        artefacts
            .files
            .iter()
            .filter(|f| f.sha256_is_stated)
            .count()
    };
    let n_stated = stated(reference) + stated(candidate);
    if n_stated > 0 {
        seen.push(Observation {
            code: "digests-stated".to_owned(),
            message: format!(
                "The SHA-256 of {n_stated} files is the one that their source states; these files were \
                 not read whole, and it was not computed."
            ),
            file: None,
        });
    }
    record = record
        .with_effect("n-files-equal", n_equal as f64)
        .with_effect("n-files-renamed", n_renamed as f64);
    if let Some(fraction) = all.fraction() {
        record = record.with_effect("fraction-files-equal", fraction);
    } else {
        record = record.with_reason(format!(
            "{} files were not digested whole, so that it is open whether they are equal",
            all.n_unknown
        ));
    }
    match weights.fraction() {
        Some(fraction) if n_weights.iter().all(|&n| n > 0) => {
            record.with_effect("fraction-weight-files-equal", fraction)
        }
        _ => record,
    }
}

fn equal_file(reference: &FileEntry, candidate: &FileEntry) -> Observation {
    let digest = match (&reference.sha256, &reference.git_blob) {
        (Some(sha256), _) => format!("SHA-256 {}", excerpt::shorten(sha256, 12)),
        (None, Some(blob)) => format!("git blob {}", excerpt::shorten(blob, 12)),
        (None, None) => "equal digest".to_owned(),
    };
    let (code, name) = if reference.path == candidate.path {
        (
            "equal-file",
            format!("`{}`", excerpt::shorten(&reference.path, 120)),
        )
    } else {
        let (from, to) = (&reference.path, &candidate.path);
        let name = format!(
            "`{}`, here `{}`,",
            excerpt::shorten(from, 120),
            excerpt::shorten(to, 120)
        );
        ("equal-file-renamed", name)
    };
    Observation {
        code: code.to_owned(),
        message: format!(
            "{name} is the same file in both, byte for byte ({} bytes, {digest}).",
            reference.size_bytes
        ),
        file: Some(candidate.path.clone()),
    }
}

/// Names of tensors, which the index alone gives.
fn tensor_names(
    mut record: TestRecord,
    found: &NameOrder,
    seen: &mut Vec<Observation>,
) -> TestRecord {
    let Some(fraction) = found.fraction_common() else {
        return record;
    };
    record = record
        .with_effect("tensor-names-equal-fraction", fraction)
        .with_effect("n-tensor-names-renamed", found.n_renamed() as f64);
    if !found.renamings_sought {
        seen.push(Observation {
            code: "renamings-not-sought".to_owned(),
            message:
                "There are too many tensor names to look for renamings; equal ones were counted."
                    .to_owned(),
            file: None,
        });
    }
    if found.all_common() {
        let order = if found.order_equal {
            "in the same order"
        } else {
            "in another order"
        };
        let n = found.n_reference;
        let (code, message) = if found.n_renamed() == 0 {
            let message = format!(
                "All {n} tensor names are equal, {order}. This is so for most models of one \
                 architecture."
            );
            ("tensor-names-equal", message)
        } else {
            let message = format!(
                "All {n} tensor names are equal, {order}, once {} of them are renamed by the listed \
                 rules.",
                found.n_renamed()
            );
            ("tensor-names-equal-after-renaming", message)
        };
        seen.push(Observation {
            code: code.to_owned(),
            message,
            file: None,
        });
    }
    if found.renamings.is_empty() {
        return record;
    }
    record.with_detail(Detail::Renamings(found.renamings.clone()))
}

#[cfg(test)]
mod tests {
    use super::super::artefact_fixture::{codes, compare, model, named};
    use super::*;
    use crate::arch::Model;

    fn test(a: &Model, b: &Model) -> TestRecord {
        compare(a, b, run)
    }

    #[test]
    fn equal_weight_files_on_both_sides_are_a_fraction_of_one() {
        let a = model(&[("model.safetensors", "weights"), ("config.json", "{}")]);
        let b = model(&[("weights/w.bin", "weights"), ("config.json", "{ }")]);
        let record = test(&a, &b);
        assert_eq!(record.effect("fraction-weight-files-equal"), Some(1.0));
        assert_eq!(record.effect("n-files-renamed"), Some(1.0));
        assert_eq!(record.effect("fraction-files-equal"), Some(0.5));
        assert!(codes(&record).contains(&"equal-file-renamed".to_owned()));
    }

    #[test]
    fn one_more_shard_on_either_side_is_less_than_one() {
        let a = model(&[("a.safetensors", "1"), ("b.safetensors", "2")]);
        let b = model(&[("a.safetensors", "1")]);
        for record in [test(&a, &b), test(&b, &a)] {
            assert!(record.effect("fraction-weight-files-equal").unwrap() < 1.0);
        }
    }

    #[test]
    fn generic_and_empty_files_do_not_count() {
        let files = [
            (".gitattributes", "x"),
            ("LICENSE", "MIT"),
            ("__init__.py", ""),
        ];
        let record = test(&model(&files), &model(&files));
        assert_eq!(record.status, super::super::record::Status::NotApplicable);
    }

    #[test]
    fn a_missing_digest_is_no_number() {
        let a = model(&[("model.safetensors", "weights")]);
        let mut b = model(&[("model.safetensors", "weightz")]);
        b.artefacts.files[0].sha256 = None;
        let record = test(&a, &b);
        assert_eq!(record.effect("fraction-weight-files-equal"), None);
        assert!(record.reason.is_some());
        b.artefacts.files[0].size_bytes += 1;
        assert_eq!(
            test(&a, &b).effect("fraction-weight-files-equal"),
            Some(0.0)
        );
    }

    #[test]
    fn git_blobs_stand_in_for_missing_digests() {
        let mut a = model(&[("tokenizer.json", "same")]);
        let mut b = a.clone();
        for side in [&mut a, &mut b] {
            side.artefacts.files[0].sha256 = None;
            side.artefacts.files[0].git_blob = Some("ab".to_owned());
        }
        assert_eq!(test(&a, &b).effect("n-files-equal"), Some(1.0));
    }

    #[test]
    fn an_index_without_weights_shows_the_renaming() {
        let a = named(&["vpm.a.weight", "vpm.b.weight", "llm.w"], Some(7));
        let b = named(&["vison.a.weight", "vison.b.weight", "llm.w"], Some(7));
        let record = test(&a, &b);
        assert_eq!(record.effect("tensor-names-equal-fraction"), Some(1.0));
        assert_eq!(record.effect("declared-total-size-equal"), Some(1.0));
        assert!(codes(&record).contains(&"tensor-names-equal-after-renaming".to_owned()));
        assert!(
            record
                .details
                .iter()
                .any(|d| matches!(d, Detail::Renamings(r) if r.len() == 2))
        );
    }

    #[test]
    fn training_state_is_no_weight_file() {
        let a = model(&[("training_args.bin", "1"), ("optimizer.pt", "2")]);
        assert_eq!(test(&a, &a).effect("fraction-weight-files-equal"), None);
    }

    #[test]
    fn the_llama3_v_index_is_that_of_its_reference_after_two_renamings() {
        let Some((a, b)) = super::super::artefact_fixture::llama3_v() else {
            return;
        };
        let record = test(&a, &b);
        assert_eq!(record.effect("tensor-names-equal-fraction"), Some(1.0));
        assert_eq!(record.effect("declared-total-size-equal"), Some(1.0));
        let found = name_order::compare_names(&a.tensor_names(), &b.tensor_names());
        assert!(found.order_equal && found.n_reference == 741);
        let mut rules: Vec<(&str, &str)> = found
            .renamings
            .iter()
            .map(|r| (r.reference.as_str(), r.candidate.as_str()))
            .collect();
        rules.sort_unstable();
        let expected = [
            ("(unchanged)", "(unchanged)"),
            ("resampler.", "projection."),
            ("vpm.", "vison."),
        ];
        assert_eq!(rules, expected);
    }
}
