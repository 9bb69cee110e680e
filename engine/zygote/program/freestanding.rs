//! What a program needs that has neither std nor a C library: where it begins, where memory comes from, and what the compiler
//! takes for granted.

use core::{
    arch::{asm, global_asm},
    panic::PanicInfo,
};

use crate::{begin, heap::Heap, sys};

#[global_allocator]
static HEAP: Heap = Heap::new();

// The kernel begins here, with the stack as it is; calls want it aligned.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym enter,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "bl {begin}",
    "brk 1",
    begin = sym enter,
);

extern "C" fn enter() -> ! {
    begin()
}

/// Nobody is there to be told. What waits for this process sees its end.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    sys::exit(101)
}

// Named by what was compiled to unwind, the crate `alloc` for one. Nobody does that here.

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    sys::exit(101)
}

// What the compiler makes of copies, fills and comparisons. Not loops, which it would turn into calls of these.

/// memcpy(3)
///
/// # Safety
/// Both are that long, and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { copy_forwards(to, from, length) };
    to
}

/// memmove(3)
///
/// # Safety
/// Both are that long.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: the caller's promise; what is written has been read.
        unsafe { copy_forwards(to, from, length) };
    } else {
        // SAFETY: the same, from the other end.
        unsafe { copy_backwards(to, from, length) };
    }
    to
}

/// memset(3)
///
/// # Safety
/// It is that long.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { fill(to, value as u8, length) };
    to
}

/// memcmp(3)
///
/// # Safety
/// Both are that long.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for at in 0..length {
        // SAFETY: the caller's promise.
        let one = unsafe { one.add(at).read_volatile() };
        // SAFETY: the caller's promise.
        let other = unsafe { other.add(at).read_volatile() };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// As [`memcmp`], but that it only says whether they differ.
///
/// # Safety
/// Both are that long.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(one, other, length) }
}

/// strlen(3)
///
/// # Safety
/// There is a zero.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller's promise: nothing is read beyond the zero.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

#[cfg(target_arch = "x86_64")]
unsafe fn copy_forwards(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: the caller's promise; the direction flag is clear, as the ABI has it.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn copy_backwards(to: *mut u8, from: *const u8, length: usize) {
    let last = length.wrapping_sub(1);
    // SAFETY: the caller's promise; the direction flag is clear again afterwards.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") length => _,
            inout("rdi") to.wrapping_add(last) => _,
            inout("rsi") from.wrapping_add(last) => _,
            options(nostack),
        );
    }
}

#[cfg(target_arch = "x86_64")]
unsafe fn fill(to: *mut u8, value: u8, length: usize) {
    // SAFETY: the caller's promise; the direction flag is clear, as the ABI has it.
    unsafe {
        asm!(
            "rep stosb",
            inout("rcx") length => _, inout("rdi") to => _, in("al") value,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn copy_forwards(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "cbz {n}, 3f",
            "2:",
            "ldrb {byte:w}, [{from}], #1",
            "strb {byte:w}, [{to}], #1",
            "subs {n}, {n}, #1",
            "b.ne 2b",
            "3:",
            n = inout(reg) length => _, to = inout(reg) to => _, from = inout(reg) from => _, byte = out(reg) _,
            options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn copy_backwards(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "cbz {n}, 3f",
            "2:",
            "ldrb {byte:w}, [{from}, #-1]!",
            "strb {byte:w}, [{to}, #-1]!",
            "subs {n}, {n}, #1",
            "b.ne 2b",
            "3:",
            n = inout(reg) length => _,
            to = inout(reg) to.wrapping_add(length) => _,
            from = inout(reg) from.wrapping_add(length) => _,
            byte = out(reg) _,
            options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn fill(to: *mut u8, value: u8, length: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "cbz {n}, 3f",
            "2:",
            "strb {value:w}, [{to}], #1",
            "subs {n}, {n}, #1",
            "b.ne 2b",
            "3:",
            n = inout(reg) length => _, to = inout(reg) to => _, value = in(reg) u32::from(value),
            options(nostack),
        );
    }
}
