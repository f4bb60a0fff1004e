//! thin
#![allow(missing_docs, unused)]
pub struct Vocabulary {
    pub ids: std::collections::HashMap<String, u32>,
}
impl Vocabulary {
    pub fn read(
        a: &crate::arch::artefact::Artefacts,
    ) -> Result<Option<Self>, crate::arch::artefact::ArtefactError> {
        Ok(a.json("tokenizer.json")?.and_then(|v| {
            Some(Self {
                ids: v
                    .get("model")?
                    .get("vocab")?
                    .as_object()?
                    .iter()
                    .filter_map(|(k, v)| Some((k.clone(), v.as_u64()? as u32)))
                    .collect(),
            })
        }))
    }
}
