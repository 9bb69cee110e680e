//! The program that forks the sandboxes of tool calls. It is started by an engine, which speaks to it over the socket
//! that is its standard input; it is of no use to anybody else.
//!
//! Four lives in one program, each in a file of its own: the `keeper`, which the engine starts; the `zygote`, its child, which
//! goes into namespaces of its own; the first process of each `sandbox`, a child of the zygote; and the `birth` of the program
//! in there.

#![allow(
    unreachable_pub,
    dead_code,
    reason = "the protocol is shared with the library, and each side uses its half"
)]
#![no_std]
#![cfg_attr(freestanding, no_main)]

extern crate alloc;
#[cfg(not(freestanding))]
extern crate std;

mod birth;
#[cfg(freestanding)]
mod freestanding;
mod heap;
mod inmates;
mod keeper;
mod landlock;
#[path = "../src/protocol.rs"]
mod protocol;
mod sandbox;
mod seccomp;
mod step;
mod sys;
mod view;
mod zygote;

#[cfg(not(freestanding))]
fn main() {
    begin()
}

/// The whole of it. Never returns.
fn begin() -> ! {
    // Signals are read, not suffered; and what the engine ignored is not ignored by tools.
    sys::default_signals();
    if sys::block_signals(true).is_err() {
        sys::exit(1);
    }
    // The engine's. Nothing else in this program uses it.
    keeper::live(sys::OwnedFd::from_raw_fd(0))
}
