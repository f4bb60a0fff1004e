//! Quantities computed from one model.
