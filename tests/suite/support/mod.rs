//! What the tests stand on: the zoo, mechanical derivations of its models, a plain forward pass, hostile files.
//!
//! Nothing here uses the library, so that a fault of the library cannot hide behind the same fault in its tests.

pub mod corrupt;
pub mod derive;
pub mod forward;
pub mod hub_server;
pub mod linear;
pub mod model;
pub mod quantized;
pub mod reference;
pub mod safetensors_file;
pub mod shape;
pub mod tls_front;
pub mod web_server;

use std::path::PathBuf;

/// Folder of one model of `tests/zoo`.
pub fn zoo(id: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/zoo")
        .join(id);
    assert!(
        folder.is_dir(),
        "no model {id} in the zoo: {}",
        folder.display()
    );
    folder
}

/// Folder of the large published checkpoints, which are not in the repository: `MODELKIN_SHARED`, else `../shared`.
/// `None`, and a line that says so, where it is absent.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("MODELKIN_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!(
        "skipped: no published checkpoints at {} (set MODELKIN_SHARED)",
        folder.display()
    );
    None
}
