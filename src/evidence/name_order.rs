#![allow(missing_docs, unused)]
pub fn summarise(n: &[(String, String, &'static str)]) -> Vec<super::record::Renaming> {
    todo!()
}
