//! Memory from the kernel.

use super::*;

const NONE: c_long = 0;
const READ_WRITE: c_long = 3;
const PRIVATE_ANONYMOUS: c_long = 0x22;
const FIXED: c_long = 0x10;

/// So many bytes, all zero, aligned to a page. Null: there are none.
pub(crate) fn map(length: usize) -> *mut u8 {
    let mapped = call!(nr::MMAP, 0, length, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
    mapped.map_or(ptr::null_mut(), |address| ptr::with_exposed_provenance_mut(address as usize))
}

/// Gives back what [`map`] gave.
pub(crate) fn unmap(memory: *mut u8, length: usize) {
    // It cannot fail for what was mapped.
    let _ = call!(nr::MUNMAP, memory, length);
}

/// Memory for a stack, below which nothing may be touched.
pub(super) struct Stack(*mut c_void);

impl Stack {
    const SIZE: usize = 256 << 10;
    const GUARD: usize = 64 << 10;

    pub(super) fn new() -> Result<Self> {
        let whole = call!(nr::MMAP, 0, Self::GUARD + Self::SIZE, NONE, PRIVATE_ANONYMOUS, -1, 0)?;
        let stack = Self(whole as *mut c_void);
        // Over the upper part of what was just mapped, and is nobody else's.
        let usable = whole + Self::GUARD as i64;
        call!(nr::MMAP, usable, Self::SIZE, READ_WRITE, PRIVATE_ANONYMOUS | FIXED, -1, 0)?;
        Ok(stack)
    }

    /// It grows down from here.
    pub(super) fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(Self::GUARD + Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // It cannot fail for what was mapped.
        let _ = call!(nr::MUNMAP, self.0, Self::GUARD + Self::SIZE);
    }
}
