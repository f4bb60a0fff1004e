//! Makes `fingerprints/calibration/token-lens-matching.json`: what the token lens says of models that
//! are known to be independent.
//!
//!     cargo bench --bench calibrate -- DIR > fingerprints/calibration/token-lens-matching.json
//!
//! DIR holds model folders named `<recipe>-seed-<n>`, as `tests/zoo/train.py --calibration` writes
//! them: runs of one recipe differ in their seed alone, the hardest negatives that there are. All
//! pairs of one recipe are compared. No model of `tests/zoo` itself takes part.

use modelkin::audit::{self, Request, Unwatched};
use modelkin::evidence::context::Settings;
use modelkin::evidence::record::TestRecord;
use modelkin::source::FetchOptions;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const TEST: &str = "token-lens-matching";

fn lens(reference: &Path, candidate: &Path) -> TestRecord {
    let model = |path: &Path| path.display().to_string().parse().expect("a folder");
    let request = Request {
        reference: model(reference),
        candidate: model(candidate),
        bases: [None, None],
        settings: Settings::default(),
        fetch: FetchOptions::default(),
        tests: vec![TEST.to_owned()],
        device: "cpu".to_owned(),
        budget_bytes: None,
        command: Vec::new(),
    };
    let report = audit::compare(&request, &Unwatched).expect("calibration models can be read");
    report
        .records
        .into_iter()
        .find(|record| record.test == TEST)
        .expect("every registered test leaves a record")
}

fn main() {
    let Some(folder) = std::env::args().skip(1).find(|arg| !arg.starts_with("--")) else {
        eprintln!(
            "usage: cargo bench --bench calibrate -- DIR (models made by tests/zoo/train.py --calibration DIR)"
        );
        return;
    };
    let mut recipes: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).expect("the folder can be listed") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        if let Some((recipe, _)) = name.as_deref().and_then(|n| n.split_once("-seed-"))
            && path.join("config.json").exists()
        {
            recipes.entry(recipe.to_owned()).or_default().push(path);
        }
    }
    let mut pairs = Vec::new();
    let mut n_models = 0;
    for models in recipes.values_mut() {
        models.sort();
        n_models += models.len();
        for (i, a) in models.iter().enumerate() {
            for b in &models[i + 1..] {
                let record = lens(a, b);
                let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
                eprintln!("{} {}", a.display(), b.display());
                pairs.push(json!({
                    "reference": name(a), "candidate": name(b),
                    "agreement": record.effect("agreement"),
                    "spearman": record.effect("spearman"),
                    "ln_p": record.p.map(|p| p.ln_p()),
                }));
            }
        }
    }
    let population = json!({
        "test": TEST,
        "statistic": "agreement",
        "population": "all pairs of runs of one recipe of tests/zoo/train.py that differ in their seed alone; pairs that share a model are not independent of each other",
        "command": "cargo bench --bench calibrate -- DIR",
        "n_models": n_models,
        "pairs": pairs,
    });
    println!(
        "{}",
        serde_json::to_string_pretty(&population).expect("plain data")
    );
}
