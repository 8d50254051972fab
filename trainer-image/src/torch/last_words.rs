//! The last words of a process that a thread of libtorch ends. NCCL's watchdog lets what it throws leave its thread, and C++
//! would abort: the exit code would be that of a crash, and the message the last lines of a log.

use std::ffi::{CStr, c_char};
use std::sync::{Mutex, Once, PoisonError};

use super::TorchError;
use super::error::DISTRIBUTED;
use super::ffi;

type Tell = Box<dyn FnOnce(TorchError) -> i32 + Send>;

static TELL: Mutex<Option<Tell>> = Mutex::new(None);

/// Lets `tell` say what ended the process, and give the exit code, where a thread of libtorch finds that other ranks are lost,
/// or that a GPU failed in an exchange with them. It runs in that thread, while all others go on. The last call counts.
pub(crate) fn on_lost_peer(tell: impl FnOnce(TorchError) -> i32 + Send + 'static) {
    static INSTALLED: Once = Once::new();
    *TELL.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tell));
    // SAFETY: the function that is handed over stays as long as the process.
    INSTALLED.call_once(|| unsafe { ffi::ty_on_lost_peer(last_words) });
}

/// What the shim calls; a panic in it aborts, as without it.
extern "C" fn last_words(text: *const c_char) -> i32 {
    // SAFETY: the shim gives the text of the exception, which lives through the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let tell = TELL.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(tell) = tell else {
        // Another thread says it already, and ends this one, too.
        loop {
            std::thread::park();
        }
    };
    tell(TorchError::from_status(DISTRIBUTED, &text))
}
