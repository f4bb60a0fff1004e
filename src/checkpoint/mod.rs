#![allow(missing_docs, unused)]
use std::sync::Arc; use std::collections::BTreeMap; use crate::source::bytes::ByteSource;
pub struct CheckpointFile { pub path: String, pub source: Arc<dyn ByteSource> }
#[derive(Debug,Clone)] pub struct DeclaredIndex { pub file:String, pub weight_map: Vec<(String,String)>, pub total_size: Option<u64> }
pub struct Checkpoint { pub format:&'static str, pub tensors: Vec<crate::tensor::Tensor>, pub declared: Option<DeclaredIndex>, pub metadata: BTreeMap<String,String>, pub missing_shards: Vec<String> }
#[derive(Debug,thiserror::Error)] #[error("x")] pub struct CheckpointError;
pub fn open(f:&[CheckpointFile])->Result<Checkpoint,CheckpointError>{todo!()}
pub mod digest { use crate::source::bytes::ByteSource; pub fn sha256_hex(b:&dyn ByteSource)->std::io::Result<String>{todo!()} pub fn git_blob_hex(b:&dyn ByteSource)->std::io::Result<String>{todo!()} }
