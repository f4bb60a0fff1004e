#![allow(missing_docs, unused)]
pub struct Vocabulary {
    pub ids: std::collections::HashMap<String, u32>,
}
impl Vocabulary {
    pub fn read(
        a: &crate::arch::artefact::Artefacts,
    ) -> Result<Option<Self>, crate::arch::artefact::ArtefactError> {
        todo!()
    }
}
