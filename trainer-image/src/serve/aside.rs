//! What takes a while is done beside the threads that read requests and write answers, on which everyone would wait for it.

use super::error::ServeError;

/// Does something that belongs to a request: here, or on a thread of its own if it takes long.
pub(super) async fn aside<T: Send + 'static>(
    takes_long: bool,
    what: impl FnOnce() -> Result<T, ServeError> + Send + 'static,
) -> Result<T, ServeError> {
    if !takes_long {
        return what();
    }
    let done = tokio::task::spawn_blocking(what).await;
    done.unwrap_or_else(|_| Err(ServeError::Internal("the thread that worked on the request was lost".to_owned())))
}

#[cfg(test)]
mod tests {
    use std::thread::current;

    use super::*;

    #[tokio::test]
    async fn what_takes_long_is_done_by_another_thread_and_a_panic_of_it_is_an_error() {
        let here = current().id();
        assert_eq!(aside(false, || Ok(current().id())).await, Ok(here));
        assert_ne!(aside(true, || Ok(current().id())).await, Ok(here));
        let lost = aside::<()>(true, || panic!("a defect")).await;
        assert!(matches!(lost, Err(ServeError::Internal(_))), "{lost:?}");
    }
}
