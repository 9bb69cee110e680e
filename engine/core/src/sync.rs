//! The locks and atomics of what is explored under another scheduler: `tests/interleavings.rs` compiles the same files with
//! that scheduler's types in this module's place.

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU8, Ordering},
};
