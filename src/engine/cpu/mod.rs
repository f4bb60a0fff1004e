//! The CPU backend: the definition of right.
