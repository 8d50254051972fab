//! How many images may be on their way through the server: what comes beyond is refused at once instead of waiting for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the images of a model that have come and are not computed yet.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Admission(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    waiting: AtomicUsize,
    most: usize,
}

/// The place of one image; free again when it is dropped.
#[derive(Debug)]
pub(in crate::serve) struct Slot(Arc<Counter>);

impl Admission {
    /// For `most` images at a time.
    pub(in crate::serve) fn new(most: usize) -> Admission {
        Admission(Arc::new(Counter { waiting: AtomicUsize::new(0), most }))
    }

    /// Places for so many images, for all or none.
    pub(in crate::serve) fn admit(&self, images: usize) -> Option<Vec<Slot>> {
        let more = |waiting: usize| waiting.checked_add(images).filter(|waiting| *waiting <= self.0.most);
        self.0.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some((0..images).map(|_| Slot(Arc::clone(&self.0))).collect())
    }

    /// Images that wait at present.
    pub(in crate::serve) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Images that may wait.
    pub(in crate::serve) fn most(&self) -> usize {
        self.0.most
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_let_in_all_or_none_and_leave_by_themselves() {
        let admission = Admission::new(4);
        let three = admission.admit(3).unwrap();
        assert_eq!((admission.admit(2).is_none(), admission.waiting()), (true, 3));
        let one = admission.admit(1).unwrap();
        assert!(admission.admit(1).is_none() && admission.admit(usize::MAX).is_none());
        drop(three);
        assert_eq!((admission.waiting(), admission.most()), (1, 4));
        assert!(admission.admit(3).is_some());
        drop(one);
        assert_eq!(admission.waiting(), 0);
    }
}
