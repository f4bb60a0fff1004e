#![allow(missing_docs, unused)]
use ndarray::ArrayView2;
pub struct Assignment { pub row_to_col: Vec<usize>, pub total: f64 }
pub fn assign_max(s: ArrayView2<f32>) -> Result<Assignment, std::fmt::Error> { todo!() }
#[derive(Debug, Clone)]
pub struct MatchingTest { pub n: usize, pub n_targets: usize, pub spearman: f64, pub n_coincident: usize, pub ln_p: f64 , pub ln_p_rank: f64, pub ln_p_coincident: f64}
pub fn matching_test(a:&[usize],b:&[usize],m:usize)->Result<MatchingTest,std::fmt::Error>{todo!()}
pub fn order_test(a:&[usize],b:&[usize],m:usize)->Result<MatchingTest,std::fmt::Error>{todo!()}
pub fn fisher(p:&[f64])->Option<f64>{todo!()}
pub fn bonferroni(p:f64,n:usize)->f64{todo!()}
pub fn choose(n: usize, k: usize, seed: u64, s: &str) -> Vec<usize> {todo!()}
#[derive(Default)] pub struct Moments; impl Moments { pub fn add_slice(&mut self,_:&[f32]){} pub fn std(&self)->f64{0.} pub fn excess_kurtosis(&self)->f64{0.} }
#[derive(Default)] pub struct CoMoments; impl CoMoments { pub fn add_slices(&mut self,_:&[f32],_:&[f32]){} pub fn std_x(&self)->f64{0.} pub fn centred_cosine(&self)->Option<f64>{None} pub fn relative_difference(&self)->Option<f64>{None} }
