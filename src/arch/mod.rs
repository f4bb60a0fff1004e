//! Config and tensor names → components and roles.

pub mod artefact;
