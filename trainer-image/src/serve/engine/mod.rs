//! From an image to an answer: one way for all protocols.
//!
//! ```text
//!  admission ─► pool: decode, bring to size ─► executor: queue ─► network ─► answer
//!  (or 429)     (a fixed number of threads)    (one thread, batches)
//! ```
//!
//! An image whose client has left is neither decoded nor computed, if it is noticed before its turn.

mod admission;
mod executor;
mod network;
mod pool;
mod queue;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

pub(super) use admission::Admission;
pub(super) use executor::Executor;
pub(super) use network::{Answer, Explained, Network, Row};
pub(super) use queue::Gathering;

use super::error::ServeError;
use super::metrics::Metrics;
use super::statistics::Statistics;
use crate::data::{ImageFault, View};
use crate::fault::Fault;
use executor::Item;
use pool::Pool;

/// An image as a client sends it.
#[derive(Clone, Debug)]
pub(super) enum Picture {
    /// A file: JPEG, PNG and so on.
    Encoded(Bytes),
    /// Preprocessed: see [`Row::Values`].
    Values(Vec<f32>),
}

impl Picture {
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Picture::Encoded(_))
    }
}

/// The threads that all models share.
pub(super) struct Engine {
    pool: Pool,
    executor: Executor,
    metrics: Arc<Metrics>,
}

/// Where images of one version of a model are handed in, each with an `A` that says what is asked of it.
pub(super) struct Lane<A, O> {
    lane: executor::Lane<(Row, A), O>,
    taken: Taken,
}

/// How images are taken in.
pub(super) struct Taken {
    /// How they are drawn.
    pub(super) view: Arc<View>,
    /// How many may wait.
    pub(super) admission: Admission,
    /// Where they are counted.
    pub(super) statistics: Arc<Statistics>,
}

impl Engine {
    /// Starts the threads. `broken` is told of a device that can't compute any more.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(super) fn start(
        decoders: usize,
        max_pixels: u64,
        metrics: Arc<Metrics>,
        broken: impl Fn(Fault) + Send + 'static,
    ) -> io::Result<Engine> {
        Ok(Engine {
            pool: Pool::start(decoders, max_pixels)?,
            executor: Executor::start(Arc::clone(&metrics), broken)?,
            metrics,
        })
    }

    /// For how long the present batch has been computed; zero if there is none.
    pub(super) fn busy(&self) -> Duration {
        self.executor.busy()
    }

    /// A lane for what `compute` does with images.
    pub(super) fn lane<A: Send + 'static, O: Send + 'static>(
        &self,
        taken: Taken,
        gathering: Gathering,
        compute: impl FnMut(Vec<(Row, A)>) -> Result<Vec<O>, Fault> + Send + 'static,
    ) -> Lane<A, O> {
        let lane = self.executor.lane(gathering, Arc::clone(&taken.statistics), Box::new(compute));
        Lane { lane, taken }
    }

    /// Draws images and has them computed. Dropping the future takes back what has not begun.
    pub(super) async fn compute<A: Clone + Send + 'static, O: Send + 'static>(
        &self,
        lane: &Arc<Lane<A, O>>,
        pictures: Vec<Picture>,
        asked: A,
    ) -> Result<Vec<O>, ServeError> {
        let count = pictures.len();
        let most = lane.taken.admission.most();
        if count > most {
            return Err(ServeError::too_many(most));
        }
        let slots = lane.taken.admission.admit(count).or_else(|| {
            // Room that is held by clients who have left.
            lane.lane.purge();
            lane.taken.admission.admit(count)
        });
        let slots = slots.ok_or_else(|| ServeError::QueueFull { waiting: lane.taken.admission.waiting(), most })?;
        let drawing: Vec<_> = pictures.into_iter().map(|picture| self.draw(lane, picture)).collect();
        let (mut items, mut answers) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (index, (drawn, slot)) in drawing.into_iter().zip(slots).enumerate() {
            let row = match drawn {
                Drawn::Here(row) => row,
                // Without an answer the thread that had the image has panicked.
                Drawn::Soon { row, .. } => {
                    row.await.unwrap_or(Err(ImageFault::Panicked)).map_err(|fault| ServeError::image(index, fault))?
                }
            };
            let (reply, answer) = oneshot::channel();
            items.push(Item { input: (row, asked.clone()), reply, slot });
            answers.push(answer);
        }
        lane.lane.push(items);
        let mut outputs = Vec::with_capacity(count);
        for answer in answers {
            let lost = || ServeError::Internal("the thread that computes was lost".to_owned());
            outputs.push(answer.await.unwrap_or_else(|_| Err(lost()))?);
        }
        Ok(outputs)
    }

    /// Has an image drawn by the pool, where it is not ready as it is.
    fn draw<A, O>(&self, lane: &Lane<A, O>, picture: Picture) -> Drawn {
        let bytes = match picture {
            Picture::Values(values) => return Drawn::Here(Row::Values(values)),
            Picture::Encoded(bytes) => bytes,
        };
        let (reply, row) = oneshot::channel();
        let (view, metrics) = (Arc::clone(&lane.taken.view), Arc::clone(&self.metrics));
        let statistics = Arc::clone(&lane.taken.statistics);
        let held = Held(Arc::new(Mutex::new(Some(bytes))));
        let file = Arc::clone(&held.0);
        self.pool.run(move |scratch| {
            let Some(bytes) = take(&file) else { return };
            let start = Instant::now();
            let mut pixels = vec![0; view.preprocessing().image_bytes()];
            let drawn = view.draw(scratch, &bytes, 0, 0, &mut pixels);
            let took = start.elapsed();
            metrics.preprocessed(took);
            statistics.preprocessed(took);
            // Whoever asked may have left meanwhile.
            let _ = reply.send(drawn.map(|_| Row::Pixels(pixels)));
        });
        Drawn::Soon { row, _held: held }
    }
}

/// An image that the network can take, now or soon.
enum Drawn {
    Here(Row),
    Soon { row: oneshot::Receiver<Result<Row, ImageFault>>, _held: Held },
}

/// The file of an image until a thread takes it up. It goes with the client: while the threads are busy, those who have left
/// would otherwise hold memory that nobody counts any more.
struct Held(Arc<Mutex<Option<Bytes>>>);

impl Drop for Held {
    fn drop(&mut self) {
        drop(take(&self.0));
    }
}

fn take(file: &Mutex<Option<Bytes>>) -> Option<Bytes> {
    file.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// How images are gathered that are computed one by one.
pub(super) const ONE_BY_ONE: Gathering = Gathering { most: 1, delay: Duration::ZERO };

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, RgbImage};
    use proptest::prelude::*;
    use tokio::runtime::Builder;

    use super::*;
    use crate::data::Preprocessing;

    const MOST: usize = 4;

    fn engine() -> Engine {
        Engine::start(2, 10_000, Arc::default(), |_| ()).unwrap()
    }

    fn values(value: f32) -> Picture {
        Picture::Values(vec![value])
    }

    fn taken(waiting: usize) -> Taken {
        Taken {
            view: Arc::new(View::evaluation(Preprocessing::for_size(4))),
            admission: Admission::new(waiting),
            statistics: Arc::new(Statistics::new("a")),
        }
    }

    /// A lane that tells the size of each image's batch, and keeps what it has computed.
    fn lane(engine: &Engine, waiting: usize) -> (Arc<Lane<(), usize>>, Arc<Mutex<Vec<Row>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&seen);
        let gathering = Gathering { most: MOST, delay: Duration::ZERO };
        let lane = engine.lane(taken(waiting), gathering, move |asked: Vec<(Row, ())>| {
            let count = asked.len();
            keep.lock().unwrap().extend(asked.into_iter().map(|(row, ())| row));
            Ok(vec![count; count])
        });
        (Arc::new(lane), seen)
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn images_of_a_request_are_computed_together_and_in_order() {
        let engine = engine();
        let (lane, seen) = lane(&engine, 8);
        let request = (0..6).map(|value| values(value as f32)).collect();
        assert_eq!(block_on(engine.compute(&lane, request, ())), Ok(vec![4, 4, 4, 4, 2, 2]));
        let expected: Vec<Row> = (0..6).map(|value| Row::Values(vec![value as f32])).collect();
        assert_eq!(*seen.lock().unwrap(), expected);
        let refused = block_on(engine.compute(&lane, vec![values(0.0); 9], ()));
        assert!(matches!(refused, Err(ServeError::TooLarge(_))), "{refused:?}");
    }

    #[test]
    fn one_bad_image_is_named_and_nothing_of_its_request_is_computed() {
        let engine = engine();
        let (lane, seen) = lane(&engine, 8);
        let request = vec![values(0.0), Picture::Encoded(Bytes::from_static(b"no image"))];
        let error = block_on(engine.compute(&lane, request, ())).unwrap_err();
        assert_eq!(error, ServeError::Image { index: 1, fault: ImageFault::Unknown });
        assert!(seen.lock().unwrap().is_empty());
        assert_eq!(lane.taken.admission.waiting(), 0);
    }

    #[test]
    fn a_file_that_waits_for_a_thread_goes_with_its_client() {
        /// A file whose memory can be seen to be free.
        struct File(#[expect(dead_code, reason = "it is counted")] Arc<()>);
        impl AsRef<[u8]> for File {
            fn as_ref(&self) -> &[u8] {
                b"no image"
            }
        }
        let engine = Engine::start(1, 10_000, Arc::default(), |_| ()).unwrap();
        let (lane, _) = lane(&engine, 8);
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        engine.pool.run(move |_| wait.recv().unwrap_or_default());
        let memory = Arc::new(());
        let pictures = [0, 1].map(|_| Picture::Encoded(Bytes::from_owner(File(Arc::clone(&memory)))));
        let mut asking = Box::pin(engine.compute(&lane, pictures.into(), ()));
        block_on(async { assert!(futures::poll!(&mut asking).is_pending()) });
        assert_eq!((Arc::strong_count(&memory), lane.taken.admission.waiting()), (3, 2));
        drop(asking);
        assert_eq!((Arc::strong_count(&memory), lane.taken.admission.waiting()), (1, 0));
        drop(go_on);
    }

    #[test]
    fn a_network_that_panics_answers_with_an_error_and_goes_on() {
        let engine = engine();
        let mut calls = 0;
        let compute = move |asked: Vec<(Row, ())>| {
            calls += 1;
            assert!(calls > 1, "a defect of the network");
            Ok(asked)
        };
        let gathering = Gathering { most: 1, delay: Duration::ZERO };
        let lane = Arc::new(engine.lane(taken(4), gathering, compute));
        let answers = [0, 1].map(|_| block_on(engine.compute(&lane, vec![values(1.0)], ())));
        assert!(matches!(&answers[0], Err(ServeError::Internal(_))), "{answers:?}");
        assert_eq!(answers[1], Ok(vec![(Row::Values(vec![1.0]), ())]));
    }

    /// Files of a small image in the formats that are read.
    fn files() -> Vec<Vec<u8>> {
        let image = RgbImage::from_fn(9, 7, |x, y| image::Rgb([(x * 20) as u8, (y * 30) as u8, 77]));
        let formats = [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Tiff, ImageFormat::WebP];
        let mut files: Vec<Vec<u8>> = formats
            .iter()
            .map(|format| {
                let mut bytes = Cursor::new(Vec::new());
                image.write_to(&mut bytes, *format).unwrap();
                bytes.into_inner()
            })
            .collect();
        let pixels = turbojpeg::Image {
            pixels: &image.as_raw()[..],
            width: 9,
            pitch: 27,
            height: 7,
            format: turbojpeg::PixelFormat::RGB,
        };
        files.push(turbojpeg::compress(pixels, 80, turbojpeg::Subsamp::Sub2x2).unwrap().to_vec());
        files
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Files that were damaged anywhere: drawn or refused, by threads that live on.
        #[test]
        fn any_damage_to_a_file_is_drawn_or_refused(
            file in prop::sample::select(files()),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let mut file = file;
            for (place, byte) in changes {
                let place = place.index(file.len());
                file[place] = byte;
            }
            if is_cut {
                file.truncate(cut.index(file.len()));
            }
            let engine = engine();
            let (lane, _) = lane(&engine, 1);
            let answer = block_on(engine.compute(&lane, vec![Picture::Encoded(file.into())], ()));
            let is_expected = match &answer {
                Ok(counts) => *counts == [1],
                Err(ServeError::Image { fault, .. }) => *fault != ImageFault::Panicked,
                Err(error) => matches!(error, ServeError::TooLarge(_)),
            };
            prop_assert!(is_expected, "{answer:?}");
        }
    }
}
