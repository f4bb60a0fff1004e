//! Hostile files are hostile, by the judgement of the `safetensors` crate and of their own labels.

use crate::support::{corrupt, shared};
use safetensors::SafeTensors;
use serde_json::Value;

#[test]
fn the_reference_reader_refuses_every_malformed_weight_file_and_no_other() {
    let files = corrupt::weight_files();
    assert!(files.len() >= 20);
    for file in files {
        let refused = SafeTensors::deserialize(&file.bytes).is_err();
        assert_eq!(refused, file.malformed, "{}", file.label);
    }
}

#[test]
fn hostile_indexes_stand_beside_a_sound_shard() {
    let (name, bytes) = corrupt::sound_shard();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 2);
    for file in corrupt::index_files() {
        let index = serde_json::from_slice::<Value>(&file.bytes).unwrap_or_default();
        let sound = index["weight_map"].as_object().is_some_and(|map| {
            map.iter()
                .all(|(tensor, shard)| *shard == name && ["a", "b"].contains(&tensor.as_str()))
        });
        assert!(file.malformed && !sound, "{}", file.label);
    }
}

#[test]
fn published_checkpoints_are_found_where_they_are_or_said_to_be_absent() {
    if let Some(folder) = shared() {
        assert!(folder.is_dir());
    }
}
