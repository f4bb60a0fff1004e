//! `ModelRef` → `Snapshot`. The only network code.
