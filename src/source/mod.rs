#![allow(missing_docs, unused)]
pub mod bytes { use std::borrow::Cow; use std::ops::Range; pub trait ByteSource: Send+Sync+std::fmt::Debug { fn name(&self)->&str; fn len(&self)->u64; fn read(&self, r: Range<u64>)->std::io::Result<Cow<'_,[u8]>>; }
 #[derive(Debug)] pub struct MappedFile; impl MappedFile { pub fn open(p:&std::path::Path,n:&str)->std::io::Result<Self>{todo!()} } impl ByteSource for MappedFile { fn name(&self)->&str{""} fn len(&self)->u64{0} fn read(&self, r: Range<u64>)->std::io::Result<Cow<'_,[u8]>>{todo!()} } }
#[derive(Debug, Clone)] pub struct ModelRef; impl std::str::FromStr for ModelRef { type Err=String; fn from_str(s:&str)->Result<Self,String>{todo!()} } impl std::fmt::Display for ModelRef { fn fmt(&self,f:&mut std::fmt::Formatter<'_>)->std::fmt::Result{Ok(())} }
#[derive(Default)] pub struct FetchOptions; #[derive(Debug,thiserror::Error)] #[error("x")] pub struct SourceError;
pub struct SnapshotFile { pub path:String, pub local: std::path::PathBuf, pub size_bytes:u64, pub sha256:Option<String>, pub git_blob:Option<String> }
pub struct Snapshot { pub label:String, pub revision:Option<String>, pub root: std::path::PathBuf, pub files: Vec<SnapshotFile> }
pub trait Progress: Sync {}
pub fn resolve(m:&ModelRef,o:&FetchOptions,p:&dyn Progress)->Result<Snapshot,SourceError>{todo!()}
