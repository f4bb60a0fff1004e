//! Hostile bytes → named tensors, lazily. One file per format.
