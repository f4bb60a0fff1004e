//! Report renderers. Computes nothing.
