//! thin
#![allow(missing_docs)]
use ndarray::Array2;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType { F64, F32, F16, BF16, F8E4M3, F8E5M2, I64, I32, I16, I8, U64, U32, U16, U8, Bool }
impl DType {
    pub fn size_bytes(self) -> usize { match self { DType::F64|DType::I64|DType::U64=>8, DType::F32|DType::I32|DType::U32=>4, DType::F16|DType::BF16|DType::I16|DType::U16=>2, _=>1 } }
    pub fn name(self) -> &'static str { match self { DType::F64=>"F64",DType::F32=>"F32",DType::F16=>"F16",DType::BF16=>"BF16",_=>"other" } }
    pub fn is_float(self) -> bool { matches!(self, DType::F64|DType::F32|DType::F16|DType::BF16|DType::F8E4M3|DType::F8E5M2) }
    pub fn decode(self, b: &[u8], out: &mut [f32]) { match self {
        DType::F32 => for (o,c) in out.iter_mut().zip(b.chunks_exact(4)) { *o = f32::from_le_bytes([c[0],c[1],c[2],c[3]]) },
        DType::BF16 => for (o,c) in out.iter_mut().zip(b.chunks_exact(2)) { *o = f32::from_bits(u32::from(u16::from_le_bytes([c[0],c[1]]))<<16) },
        DType::F16 => for (o,c) in out.iter_mut().zip(b.chunks_exact(2)) { *o = half::f16::from_le_bytes([c[0],c[1]]).to_f32() },
        _ => {} } }
    pub fn round(self, x: f32) -> f32 { match self { DType::BF16 => half::bf16::from_f32(x).to_f32(), DType::F16 => half::f16::from_f32(x).to_f32(), _ => x } }
}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TensorError(pub String);
impl TensorError { pub fn not_finite(t: &Tensor) -> Self { Self(format!("{}: not finite", t.name())) } }
pub trait TensorBytes: Send + Sync + std::fmt::Debug { fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, TensorError>; fn file(&self) -> &str; }
#[derive(Clone, Debug)]
pub struct Tensor { name: String, dtype: DType, shape: Vec<usize>, bytes: Arc<dyn TensorBytes>, offset: u64 }
impl Tensor {
    pub fn new(name: String, dtype: DType, shape: Vec<usize>, bytes: Arc<dyn TensorBytes>, offset: u64) -> Result<Self, TensorError> { Ok(Self{name,dtype,shape,bytes,offset}) }
    pub fn name(&self)->&str{&self.name} pub fn dtype(&self)->DType{self.dtype} pub fn shape(&self)->&[usize]{&self.shape}
    pub fn n_elements(&self)->usize{self.shape.iter().product()} pub fn size_bytes(&self)->u64{(self.n_elements()*self.dtype.size_bytes()) as u64}
    pub fn file(&self)->&str{self.bytes.file()}
    pub fn read_bytes(&self, r: Range<u64>)->Result<Cow<'_,[u8]>,TensorError>{ self.bytes.read(self.offset+r.start..self.offset+r.end) }
    pub fn read_elements(&self, r: Range<usize>)->Result<Vec<f32>,TensorError>{ let s=self.dtype.size_bytes() as u64; let b=self.read_bytes(r.start as u64*s..r.end as u64*s)?; let mut o=vec![0.0;r.len()]; self.dtype.decode(&b,&mut o); Ok(o) }
}
#[derive(Clone, Debug)]
pub struct Matrix { tensor: Tensor, r: usize, c: usize, t: bool, rows: Option<Arc<[usize]>> }
impl Matrix {
    pub fn new(tensor: Tensor)->Result<Self,TensorError>{ let n=tensor.n_elements(); let r=tensor.shape()[0]; Ok(Self{r,c:n/r.max(1),tensor,t:false,rows:None}) }
    pub fn transposed(self)->Self{ Self{t:!self.t,..self} }
    pub fn select_rows(self, rows: Arc<[usize]>)->Result<Self,TensorError>{ let rows = match &self.rows { Some(o)=>rows.iter().map(|&i|o[i]).collect(), None=>rows }; Ok(Self{rows:Some(rows),..self}) }
    pub fn row_range(self, r: Range<usize>)->Result<Self,TensorError>{ self.select_rows(r.collect()) }
    pub fn n_rows(&self)->usize{ match &self.rows {Some(x)=>x.len(),None=>if self.t {self.c} else {self.r}} }
    pub fn n_cols(&self)->usize{ if self.t {self.r} else {self.c} }
    pub fn tensor(&self)->&Tensor{&self.tensor}
    pub fn gather(&self, idx:&[usize])->Result<Array2<f32>,TensorError>{ let a=Array2::from_shape_vec((self.r,self.c),self.tensor.read_elements(0..self.r*self.c)?).unwrap(); let a=if self.t {a.t().to_owned()} else {a}; let idx:Vec<usize>=match &self.rows {Some(x)=>idx.iter().map(|&i|x[i]).collect(),None=>idx.to_vec()}; let o=a.select(ndarray::Axis(0),&idx).as_standard_layout().to_owned(); if o.iter().any(|x|!x.is_finite()){return Err(TensorError::not_finite(&self.tensor))} Ok(o) }
    pub fn rows(&self, r: Range<usize>)->Result<Array2<f32>,TensorError>{ self.gather(&r.collect::<Vec<_>>()) }
    pub fn all(&self)->Result<Array2<f32>,TensorError>{ self.rows(0..self.n_rows()) }
    pub fn same_view_of(&self, tensor: Tensor)->Result<Option<Self>,TensorError>{ Ok((tensor.shape()==self.tensor.shape()).then(|| Self{tensor,..self.clone()})) }
}
