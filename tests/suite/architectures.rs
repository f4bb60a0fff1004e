//! Names and config to roles: one model in the layouts of other families has the same matrices in the
//! same roles, and the parts of a vision-language model are found and judged each on its own.

use crate::audits::{compare, model_ref, record, smallest_ln_p, summary};
use crate::support::derive::{self, Prefixes};
use crate::support::model::TestModel;
use crate::support::zoo;
use modelkin::arch::{ComponentKind, Model, Part, Role, RoleKind};
use modelkin::audit::{self, Unwatched};
use modelkin::report::Report;
use modelkin::source::FetchOptions;
use modelkin::verdict::{Conclusion, Relation};
use std::path::Path;

fn saved(model: &TestModel) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    model.save(folder.path());
    folder
}

fn opened(folder: &Path) -> Model {
    let (model, _) = audit::open(&model_ref(folder), &FetchOptions::default(), &Unwatched)
        .expect("a sound model");
    model
}

/// Asserts that each role of the original holds the same values in the other layout.
fn assert_same_roles(original: &Model, other: &Model, family: &str) {
    let (a, b) = (&original.components[0], &other.components[0]);
    assert_eq!(b.family, family);
    assert_eq!(b.kind, ComponentKind::LanguageModel);
    assert_eq!((a.n_layers, a.hidden_size), (b.n_layers, b.hidden_size));
    let mut n_compared = 0;
    for (role, matrix) in &a.roles {
        // GPT-NeoX has no learned positions.
        if role.kind == RoleKind::PositionEmbedding {
            continue;
        }
        let dense = role.kind.is_mlp() && family == "mixtral";
        let there = role.of_expert(dense.then_some(0));
        let found = b
            .role(there)
            .unwrap_or_else(|| panic!("{family}: no {there}"));
        assert_eq!(
            matrix.all().expect("readable"),
            found.all().expect("readable"),
            "{family}: {role}"
        );
        n_compared += 1;
    }
    assert!(n_compared >= 39, "{n_compared}");
}

#[test]
fn a_model_in_the_layout_of_another_family_has_the_same_matrices_in_the_same_roles() {
    let llama = TestModel::load(&zoo("llama-a"));
    let original = opened(&zoo("llama-a"));
    for (other, family) in [
        (derive::as_phi3(&llama), "phi3"),
        (derive::as_internlm2(&llama), "internlm2"),
        (derive::as_meta_llama(&llama), "meta-llama"),
        (derive::as_mixtral(&llama, 3), "mixtral"),
    ] {
        assert_same_roles(&original, &opened(saved(&other).path()), family);
    }
    let neox = derive::as_gpt_neox(&TestModel::load(&zoo("gpt2-a")));
    let folder = saved(&neox);
    assert_same_roles(&opened(&zoo("gpt2-a")), &opened(folder.path()), "gpt-neox");
}

#[test]
fn fused_split_and_renamed_layouts_are_linked_to_what_they_were_made_of() {
    let llama = TestModel::load(&zoo("llama-a"));
    let gpt2 = TestModel::load(&zoo("gpt2-a"));
    let (same, bigger) = (Relation::Repackaged, Relation::Expanded);
    for (id, other, label, relation) in [
        ("llama-a", derive::as_phi3(&llama), "phi3", same),
        ("llama-a", derive::as_internlm2(&llama), "internlm2", same),
        ("llama-a", derive::as_meta_llama(&llama), "meta-llama", same),
        ("llama-a", derive::as_mixtral(&llama, 3), "mixtral", bigger),
        // The learned positions have no place in GPT-NeoX, so that something is missing.
        (
            "gpt2-a",
            derive::as_gpt_neox(&gpt2),
            "gpt-neox",
            Relation::Derived,
        ),
    ] {
        let folder = saved(&other);
        let reversed = match relation {
            Relation::Expanded => Relation::Pruned,
            other => other,
        };
        for (report, expected) in [
            (compare(&zoo(id), folder.path()), relation),
            (compare(folder.path(), &zoo(id)), reversed),
        ] {
            println!("{label}: {}", summary(&report));
            let found = report.finding.overall.relation;
            assert_eq!(found, expected, "{label}: {}", summary(&report));
            assert!(smallest_ln_p(&report).is_some_and(|p| p < -28.0), "{label}");
        }
    }
}

#[test]
fn a_mixture_shows_its_experts_and_its_router() {
    let folder = saved(&derive::as_mixtral(&TestModel::load(&zoo("llama-a")), 3));
    let model = opened(folder.path());
    let component = &model.components[0];
    assert_eq!(component.experts(2), [Some(0), Some(1), Some(2)]);
    assert!(
        component
            .role(Role::in_layer(RoleKind::Router, 0))
            .is_some()
    );
}

#[test]
fn norms_around_the_blocks_are_not_taken_for_the_norm_before_the_mlp() {
    let mut gemma = TestModel::load(&zoo("llama-a"));
    gemma.config["model_type"] = "gemma2".into();
    for layer in 0..4 {
        for part in ["pre_feedforward_layernorm", "post_feedforward_layernorm"] {
            let norm = gemma.get("model.norm.weight").clone() * 2.0;
            let name = format!("model.layers.{layer}.{part}.weight");
            gemma.tensors.push((name, norm));
        }
    }
    let folder = saved(&gemma);
    let model = opened(folder.path());
    let norm = model.components[0]
        .role(Role::in_layer(RoleKind::MlpNorm, 1))
        .expect("a norm");
    assert!(norm.tensor().name().contains("pre_feedforward"));
    assert_eq!(model.components[0].family, "llama-sandwich-norms");
}

const MINICPM_V: Prefixes = Prefixes {
    language: "llm.",
    vision: "vpm.",
    projector: "resampler.",
};
const LLAMA3_V: Prefixes = Prefixes {
    language: "llm.",
    vision: "vison.",
    projector: "projection.",
};
const LLAVA: Prefixes = Prefixes {
    language: "language_model.",
    vision: "vision_tower.vision_model.",
    projector: "multi_modal_projector.",
};
const QWEN_VL: Prefixes = Prefixes {
    language: "",
    vision: "model.visual.",
    projector: "model.visual.merger.",
};

fn conclusion<'a>(report: &'a Report, component: &str) -> &'a Conclusion {
    let found = report.finding.components.iter();
    found
        .into_iter()
        .find(|c| c.component == component)
        .unwrap_or_else(|| panic!("no {component}: {}", summary(report)))
}

#[test]
fn each_part_of_a_vision_language_model_is_a_component_of_its_own() {
    let llama = TestModel::load(&zoo("llama-a"));
    for prefixes in [&MINICPM_V, &LLAMA3_V, &LLAVA, &QWEN_VL] {
        let folder = saved(&derive::composite(&llama, prefixes, 1, 2));
        let model = opened(folder.path());
        let kinds: Vec<ComponentKind> = model.components.iter().map(|c| c.kind).collect();
        assert_eq!(
            kinds,
            [
                ComponentKind::LanguageModel,
                ComponentKind::VisionTower,
                ComponentKind::Projector
            ],
            "{}",
            prefixes.vision
        );
        let [language, vision, projector] = model.components.as_slice() else {
            panic!("three components");
        };
        assert_eq!((language.n_layers, vision.n_layers), (4, 3));
        assert!(
            vision
                .role(Role::outside(RoleKind::PatchEmbedding))
                .is_some()
        );
        assert_eq!(projector.tensors.len(), 5);
        let parts = model
            .components
            .iter()
            .map(|c| c.tensors.len())
            .sum::<usize>();
        assert_eq!(
            parts,
            model.tensors.len(),
            "every tensor is in one component"
        );
        assert!(language.roles.keys().any(|r| r.part == Part::Weight));
    }
}

#[test]
fn the_case_of_renamed_parts_and_noise_is_seen_in_every_component() {
    let llama = TestModel::load(&zoo("llama-a"));
    let original = saved(&derive::composite(&llama, &MINICPM_V, 1, 2));
    let renamed = derive::composite(&llama, &LLAMA3_V, 1, 2);
    let copy = saved(&derive::noised(&renamed, 0.03, 9));
    let report = compare(original.path(), copy.path());
    println!("{}", summary(&report));
    let overall = &report.finding.overall;
    assert_eq!(overall.relation, Relation::Noised, "{}", summary(&report));
    for component in ["language-model", "vision-tower", "projector"] {
        let found = conclusion(&report, component);
        assert_eq!(found.relation.related(), Some(true), "{component}");
    }
}

#[test]
fn a_shared_tower_under_another_backbone_shares_components_and_no_more() {
    let (ours, theirs) = (
        TestModel::load(&zoo("llama-a")),
        TestModel::load(&zoo("llama-a-other-seed")),
    );
    let a = saved(&derive::composite(&ours, &LLAVA, 1, 2));
    let b = saved(&derive::composite(&theirs, &LLAVA, 1, 3));
    let report = compare(a.path(), b.path());
    println!("{}", summary(&report));
    assert_eq!(report.finding.overall.relation, Relation::SharesComponents);
    let relation = |component| conclusion(&report, component).relation;
    assert_eq!(relation("language-model"), Relation::Independent);
    assert_eq!(relation("vision-tower"), Relation::Identical);
    assert_eq!(relation("projector"), Relation::Independent);
}

#[test]
fn the_renaming_map_of_a_renamed_model_is_printed() {
    let llama = TestModel::load(&zoo("llama-a"));
    let folder = saved(&derive::renamed(&llama));
    let report = compare(&zoo("llama-a"), folder.path());
    let correspondence = record(&report, "tensor-correspondence");
    assert_eq!(correspondence.effect("n-renamed"), Some(39.0));
    let map = format!("{:?}", correspondence.details);
    assert!(map.contains("model.layers.2.mlp.up_proj.weight"), "{map}");
}
