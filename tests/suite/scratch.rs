use crate::support::model::TestModel;
use crate::support::{derive, zoo};
#[test]
fn make() {
    let a = TestModel::load(&zoo("llama-a"));
    let t = TestModel::load(&zoo("llama-a-tuned"));
    let g = TestModel::load(&zoo("gpt2-a"));
    let s = |m: &TestModel, n: &str| { let p = std::path::PathBuf::from("/tmp/d").join(n); std::fs::create_dir_all(&p).unwrap(); m.save(&p); };
    s(&derive::disguised(&a, 11), "disguised"); s(&derive::disguised(&t, 11), "disguised-tuned"); s(&derive::turned(&a, 11), "turned"); s(&derive::noised(&g, 0.1, 11), "g-noise"); s(&derive::permuted_heads(&a, 11), "heads"); s(&derive::renamed(&derive::permuted_units(&a,11)), "ren-perm");
    s(&derive::renamed(&derive::rotated_residual(&a,11)), "ren-rot"); s(&derive::renamed(&derive::turned(&a,11)), "ren-turned");
}
