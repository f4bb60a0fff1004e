//! Dtypes, shapes, lazily read tensors.
