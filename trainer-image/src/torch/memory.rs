//! How the C library keeps the memory that libtorch gives back.

/// Lets this process keep memory for its next tensors: to be called before it starts threads. The values of a network's layers
/// take tens of megabytes, which are given back and asked for again in each step. By default glibc takes each of them from the
/// kernel, which clears its pages anew: up to an eighth of a step on CPUs. What the process needed at most it keeps, and
/// a little more for holes: one that doesn't end by itself gives it back now and then. One arena for all threads, since those of single
/// threads give back what is larger than their heaps. No effect on other C libraries.
pub fn keep_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, i32::MAX)] {
        // SAFETY: mallopt may be called at any time by any thread; a value that it does not take changes nothing.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            tracing::debug!(parameter, value, "the C library does not take it");
        }
    }
}

/// Gives the kernel what this process has kept and does not use now. What it needs again it gets anew.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time by any thread, and touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
}
