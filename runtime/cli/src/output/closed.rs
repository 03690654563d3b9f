//! Whether standard output was closed when the process began, as with `colony submit TEXT >&-`.
//!
//! Rust opens /dev/null in place of a standard stream that is closed, before `main`: everything that is printed would
//! vanish without an error, and with it the id of a task. So it has to be looked at before that.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether there is nowhere to print to.
pub(super) fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "what runs before `main` is listed in a section, and the stream has no owner there"
)]
mod before_main {
    use std::{os::fd::BorrowedFd, sync::atomic::Ordering};

    use rustix::io::fcntl_getfd;

    // SAFETY: the loader calls the functions of this section, once, and this one needs nothing of Rust's runtime.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;

    extern "C" fn look() {
        // SAFETY: it is only asked about, before anything else of this process could open or close it.
        let stdout = unsafe { BorrowedFd::borrow_raw(1) };
        super::CLOSED.store(fcntl_getfd(stdout).is_err(), Ordering::Relaxed);
    }
}
