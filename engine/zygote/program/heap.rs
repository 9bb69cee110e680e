//! Memory to allocate from, for a program without a C library. Small and simple: blocks of a power of two, and what is freed
//! waits for the next of its size. So the memory of a zygote is bounded by what it needed at once, not by how long it lives.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    ptr,
};

use crate::sys;

/// The smallest block, and how many sizes there are: up to 128 KiB, the longest message. What is larger gets pages of its own, which
/// go back to the kernel.
const SMALLEST: usize = 16;
const SIZES: usize = 14;
/// What the kernel is asked for at a time; touched only where it is used.
const CHUNK: usize = 1 << 20;
/// What memory from the kernel is aligned to at least. Nobody here needs more.
const PAGE: usize = 4096;

pub(crate) struct Heap(UnsafeCell<State>);

struct State {
    /// The first free block of each size; it holds the address of the next.
    free: [*mut u8; SIZES],
    /// What was never used of the last chunk.
    fresh: *mut u8,
    left: usize,
}

// SAFETY: this program has one thread. A process that shares its memory runs only while that thread stands still.
unsafe impl Sync for Heap {}

impl Heap {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(State { free: [ptr::null_mut(); SIZES], fresh: ptr::null_mut(), left: 0 }))
    }
}

/// The size of the block for this layout: a power of two, and a multiple of its alignment.
fn block(layout: Layout) -> usize {
    layout.size().max(layout.align()).max(SMALLEST).next_power_of_two()
}

/// Which of the sizes this is, if it is one of them.
fn class(block: usize) -> Option<usize> {
    Some((block / SMALLEST).trailing_zeros() as usize).filter(|class| *class < SIZES)
}

impl State {
    fn allocate(&mut self, block: usize) -> *mut u8 {
        let Some(class) = class(block) else { return sys::map(block) };
        let free = self.free[class];
        if !free.is_null() {
            // SAFETY: a free block is at least as large as an address and aligned for one, and `deallocate` has put there where
            // the next one is.
            self.free[class] = unsafe { free.cast::<*mut u8>().read() };
            return free;
        }
        // Blocks are aligned to their size, up to a page.
        let padding = self.fresh.align_offset(block.min(PAGE));
        if self.left < padding.saturating_add(block) {
            let chunk = sys::map(CHUNK);
            if chunk.is_null() {
                return chunk;
            }
            // What is left of the one before is lost: less than a block.
            (self.fresh, self.left) = (chunk, CHUNK);
            return self.cut(0, block);
        }
        self.cut(padding, block)
    }

    fn cut(&mut self, padding: usize, block: usize) -> *mut u8 {
        let cut = self.fresh.wrapping_add(padding);
        self.fresh = cut.wrapping_add(block);
        self.left -= padding + block;
        cut
    }

    /// # Safety
    /// It is one that was allocated with this size, and not used any more.
    unsafe fn deallocate(&mut self, memory: *mut u8, block: usize) {
        let Some(class) = class(block) else { return sys::unmap(memory, block) };
        // SAFETY: it is ours again, and large and aligned enough for an address.
        unsafe { memory.cast::<*mut u8>().write(self.free[class]) };
        self.free[class] = memory;
    }
}

// SAFETY: a block is at least as large as its layout and aligned to it, and belongs to nobody else until it is freed: it is taken
// off its list, or cut off what was never used. Nothing in here allocates, or panics.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > PAGE {
            return ptr::null_mut();
        }
        // SAFETY: there is one thread, and nothing in there comes back here.
        let state = unsafe { &mut *self.0.get() };
        state.allocate(block(layout))
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        let state = unsafe { &mut *self.0.get() };
        // SAFETY: the caller's promise: it was allocated with this layout.
        unsafe { state.deallocate(memory, block(layout)) };
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: with this alignment it is a size that a layout may have.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if block(wanted) == block(layout) {
            return memory;
        }
        // SAFETY: the caller's promise: the size is not 0.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both are at least that long, and they are different blocks.
            unsafe { ptr::copy_nonoverlapping(memory, moved, layout.size().min(size)) };
            // SAFETY: the caller's promise, and nobody uses it any more.
            unsafe { self.dealloc(memory, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn blocks_are_aligned_and_do_not_overlap() {
        let heap = Heap::new();
        let mut all = std::vec::Vec::new();
        for round in 0..400usize {
            let layout = layout(1 + round * 977 % 300_000, 1 << (round % 13));
            // SAFETY: the size is not 0.
            let memory = unsafe { heap.alloc(layout) };
            assert!(!memory.is_null() && (memory as usize).is_multiple_of(layout.align()), "{layout:?}");
            // SAFETY: it was just allocated with this size.
            unsafe { memory.write_bytes(round as u8, layout.size()) };
            all.push((memory, layout, round as u8));
            if round % 3 == 2 {
                let (memory, layout, value) = all.swap_remove(round * 7 % all.len());
                // SAFETY: it was allocated with this size, and written.
                let bytes = unsafe { std::slice::from_raw_parts(memory, layout.size()) };
                assert!(bytes.iter().all(|byte| *byte == value), "{layout:?}");
                // SAFETY: it was allocated with this layout, and is not used any more.
                unsafe { heap.dealloc(memory, layout) };
            }
        }
        for (memory, layout, value) in all {
            // SAFETY: as above.
            let bytes = unsafe { std::slice::from_raw_parts(memory, layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == value), "{layout:?}");
        }
    }

    #[test]
    fn what_is_freed_is_used_again() {
        let heap = Heap::new();
        for size in [1, 16, 17, 4096, 100_000, 128 << 10] {
            let layout = layout(size, 8);
            // SAFETY: the size is not 0.
            let first = unsafe { heap.alloc(layout) };
            // SAFETY: it was allocated with this layout.
            unsafe { heap.dealloc(first, layout) };
            // SAFETY: the size is not 0.
            assert_eq!(unsafe { heap.alloc(layout) }, first, "{size}");
        }
    }

    #[test]
    fn what_grows_keeps_what_is_in_it() {
        let heap = Heap::new();
        // SAFETY: the size is not 0.
        let mut memory = unsafe { heap.alloc(layout(1, 1)) };
        // SAFETY: it is one byte long.
        unsafe { memory.write(7) };
        let mut size = 1;
        for wanted in [2, 16, 17, 5000, 300_000, 600_000, 40, 1] {
            // SAFETY: it was allocated with this size.
            memory = unsafe { heap.realloc(memory, layout(size, 1), wanted) };
            size = wanted;
            // SAFETY: it is that long, and its first byte was written.
            assert_eq!(unsafe { memory.read() }, 7, "{wanted}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let heap = Heap::new();
        // SAFETY: the sizes are not 0.
        assert!(unsafe { heap.alloc(layout(1 << 60, 1)) }.is_null());
        // SAFETY: as above.
        assert!(unsafe { heap.alloc(layout(1, 2 * PAGE)) }.is_null());
    }
}
