//! Promises: a program in a sandbox reaches nothing but what its policy names, uses no more than its limits allow, leaves
//! nothing behind, disturbs nobody, and ends in the one outcome that it declares in its first line. The programs are in
//! `fixtures/hostile/escape`, one promise each; `escape/header.rs` says what their first lines mean.
//!
//! Each program is also run where nothing holds it (`shown`), where it must do harm: else its test could not fail. Those
//! that would harm the machine are shown by hand, and say how.
//!
//! Does not promise: anything against a kernel with a hole; that the processors' caches tell nothing; that a call is not
//! slower because another is busy.

#[path = "escape/asked.rs"]
mod asked;
#[path = "escape/header.rs"]
mod header;
#[path = "escape/judge.rs"]
mod judge;
#[path = "escape/pairs.rs"]
mod pairs;
#[path = "escape/programs.rs"]
mod programs;
#[path = "escape/rig.rs"]
mod rig;
#[path = "escape/scene.rs"]
mod scene;
