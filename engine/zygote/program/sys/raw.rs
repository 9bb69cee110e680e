//! How the kernel is entered. No C library is needed for it, and none is used: the program is a twelfth of the size, which
//! is written to memory for each engine, mapped and copied for each process.

use core::{arch::asm, ffi::c_void};

/// What the kernel answers; between -4095 and -1, an error number.
///
/// # Safety
/// The arguments are those that the call of this number takes: pointers among them are to values of the type and length that it
/// wants, which live for as long as it uses them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn syscall(number: i64, [a, b, c, d, e, f]: [i64; 6]) -> i64 {
    let answer;
    // SAFETY: the caller's promise. The kernel changes rax, rcx and r11, and nothing of the stack (syscall(2)).
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// As on x86-64.
///
/// # Safety
/// As on x86-64.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(super) unsafe fn syscall(number: i64, [a, b, c, d, e, f]: [i64; 6]) -> i64 {
    let answer;
    // SAFETY: the caller's promise. The kernel changes x0, and nothing of the stack (syscall(2)).
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => answer,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack),
        );
    }
    answer
}

/// clone(2): a child that begins on `stack` with `entry(arg)`, and exits with what that returns. Answers as [`syscall`].
///
/// # Safety
/// `stack` is the aligned upper end of memory that nobody else uses until the child has executed a program or is gone, and
/// `arg` is what `entry` wants. `flags` share memory at most: neither descriptors nor this thread's place in its group.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn clone(
    flags: i64,
    stack: *mut c_void,
    child_tid: *mut i32,
    entry: extern "C" fn(*mut c_void) -> i32,
    arg: *mut c_void,
) -> i64 {
    let answer;
    // SAFETY: the caller's promise. In this process only rax, rcx and r11 change. The child begins after the first `syscall` with
    // a copy of the registers and an empty stack, aligned as a call wants it, and never leaves this block.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "mov edi, eax",
            "mov eax, 231", // exit_group
            "syscall",
            "ud2",
            "2:",
            inlateout("rax") super::nr::CLONE => answer,
            in("rdi") flags, in("rsi") stack, in("rdx") 0, in("r10") child_tid, in("r8") 0,
            in("r12") arg, in("r13") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    answer
}

/// As on x86-64.
///
/// # Safety
/// As on x86-64.
#[cfg(target_arch = "aarch64")]
pub(super) unsafe fn clone(
    flags: i64,
    stack: *mut c_void,
    child_tid: *mut i32,
    entry: extern "C" fn(*mut c_void) -> i32,
    arg: *mut c_void,
) -> i64 {
    let answer;
    // SAFETY: the caller's promise. In this process only x0 changes. The child begins after the first `svc` with a copy of the
    // registers and an empty stack, aligned as a call wants it, and never leaves this block.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "mov x8, 94", // exit_group
            "svc 0",
            "brk 1",
            "2:",
            in("x8") super::nr::CLONE,
            inlateout("x0") flags => answer,
            in("x1") stack, in("x2") 0, in("x3") 0, in("x4") child_tid,
            in("x20") arg, in("x21") entry,
            // Of this process it is not changed; but the block says so.
            lateout("x30") _,
        );
    }
    answer
}
