//! The threads that decode images: a fixed number, each with buffers that it keeps, so that neither clients nor models
//! can make the server take more threads or memory than it was given.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::data::Scratch;

/// Bytes of a buffer that a thread keeps: those of a photograph of 5 million pixels.
const KEPT: usize = 16 << 20;

type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

/// The threads. Dropping it does what is left and ends them.
pub(in crate::serve) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads, which decode images of at most `max_pixels` pixels.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(in crate::serve) fn start(threads: usize, max_pixels: u64) -> io::Result<Pool> {
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let start = |number| {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("decode-{number}")).spawn(move || work(&queue, max_pixels))
        };
        let threads = (0..threads.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Pool { jobs: Some(jobs), threads })
    }

    /// Does a job on one of the threads. A job that panics is dropped, which those who wait for it notice.
    pub(in crate::serve) fn run(&self, job: impl FnOnce(&mut Scratch) + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // The threads end only after the sender is gone.
            let _ = jobs.send(Box::new(job));
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, max_pixels: u64) {
    let mut scratch = Scratch::new(max_pixels);
    loop {
        // One thread at a time waits for the next job; the lock is free while the job is done.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        if catch_unwind(AssertUnwindSafe(|| job(&mut scratch))).is_err() {
            scratch = Scratch::new(max_pixels);
        }
        scratch.give_back(KEPT);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            // Panics of jobs are caught.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::data::{Preprocessing, View};

    #[test]
    fn a_thread_gives_back_the_memory_of_a_huge_image() {
        let file = |side: u32| {
            let mut bytes = io::Cursor::new(Vec::new());
            image::RgbImage::new(side, side).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        let pool = Pool::start(1, 100_000_000).unwrap();
        // Bytes of the largest buffer that the next job finds after an image, and of the one that it left.
        let kept = |file: Vec<u8>| {
            let view = View::evaluation(Preprocessing::for_size(4));
            let (reply, after) = oneshot::channel();
            pool.run(move |scratch| {
                view.draw(scratch, &file, 0, 0, &mut vec![0; view.preprocessing().image_bytes()]).unwrap();
                let _ = reply.send(scratch.largest());
            });
            let drawn = after.blocking_recv().unwrap();
            let (reply, next) = oneshot::channel();
            pool.run(move |scratch| reply.send(scratch.largest()).unwrap());
            (drawn, next.blocking_recv().unwrap())
        };
        let (huge, after) = kept(file(3000));
        assert!(huge >= 27_000_000 && after <= KEPT, "{huge} {after}");
        let (usual, after) = kept(file(200));
        assert!(usual >= 120_000 && after == usual, "{usual} {after}");
    }

    #[test]
    fn a_job_that_panics_takes_nobody_with_it() {
        let pool = Pool::start(1, 100).unwrap();
        let (reply, lost) = oneshot::channel::<u32>();
        pool.run(move |_| {
            let _reply = reply;
            panic!("a defect of a decoder");
        });
        assert!(lost.blocking_recv().is_err());
        let (reply, done) = oneshot::channel();
        pool.run(move |_| reply.send(7).unwrap());
        assert_eq!(done.blocking_recv(), Ok(7));
    }
}
