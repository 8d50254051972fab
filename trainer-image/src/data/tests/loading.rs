//! Batches come in order whatever the threads do, and failures go where they should.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crds::contract::Cause;
use image::ImageFormat;

use super::super::{
    Augmentation, DataError, Failures, Flips, ImageFault, Images, Labels, Loader, Options, Preprocessing, RandomCrop,
    Render, Request, Source, View, open,
};
use super::made::{encoded, jpeg, pattern, put};

/// Samples of one pixel with their number in it; some are special.
#[derive(Default)]
struct Numbers {
    broken: Vec<usize>,
    panics: Vec<usize>,
    /// Samples that can't be read, and what the system says.
    unread: Vec<(usize, i32)>,
    slow: Option<Duration>,
    rendered: AtomicUsize,
}

impl Render for Numbers {
    type Worker = ();

    fn worker(&self) {}

    fn image_bytes(&self) -> usize {
        3
    }

    fn label(&self, sample: usize) -> i64 {
        sample as i64 * 10
    }

    fn path(&self, sample: usize) -> PathBuf {
        format!("{sample}.png").into()
    }

    fn render(&self, (): &mut (), sample: usize, epoch: u64, pixels: &mut [u8]) -> Result<Flips, DataError> {
        self.rendered.fetch_add(1, Ordering::Relaxed);
        if let Some(slow) = self.slow {
            std::thread::sleep(slow);
        }
        assert!(!self.panics.contains(&sample), "a defect of the decoder");
        pixels.copy_from_slice(&[sample as u8, epoch as u8, 7]);
        if let Some((_, code)) = self.unread.iter().find(|(unread, _)| *unread == sample) {
            return Err(DataError::from_io(self.path(sample), std::io::Error::from_raw_os_error(*code)));
        }
        if self.broken.contains(&sample) {
            return Err(DataError::image(self.path(sample), ImageFault::Truncated));
        }
        Ok(Flips { horizontal: sample % 2 == 1, vertical: sample.is_multiple_of(3) })
    }
}

/// Requests of `size` samples up to `count`.
fn requests(count: usize, size: usize) -> impl Iterator<Item = Request> + Send + 'static {
    let samples: Vec<usize> = (0..count).collect();
    let batches: Vec<Request> =
        samples.chunks(size).map(|chunk| Request { epoch: 2, samples: chunk.to_vec() }).collect();
    batches.into_iter()
}

fn start(numbers: Numbers, threads: usize, failures: Failures) -> Loader<Numbers> {
    Loader::start(Arc::new(numbers), requests(10, 4), Options { failures, ..Options::new(threads) }).unwrap()
}

/// What can be compared of all batches: pixels, labels, indices, and the places and texts of failures.
type Plain = (Vec<u8>, Vec<i64>, Vec<usize>, Vec<(usize, String)>);

fn collect<R: Render>(mut loader: Loader<R>) -> Result<Vec<Plain>, DataError> {
    let mut batches = Vec::new();
    while let Some(batch) = loader.next() {
        let batch = batch?;
        assert_eq!(batch.flips.len(), batch.indices.len());
        let failures = batch.failures.iter().map(|(place, error)| (*place, error.to_string())).collect();
        batches.push((batch.pixels.clone(), batch.labels.clone(), batch.indices.clone(), failures));
        loader.recycle(batch);
    }
    Ok(batches)
}

#[test]
fn batches_come_in_order_with_any_number_of_threads() {
    for threads in [1, 2, 7] {
        let batches = collect(start(Numbers::default(), threads, Failures::Stop)).unwrap();
        let indices: Vec<_> = batches.iter().map(|batch| batch.2.clone()).collect();
        assert_eq!(indices, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
        assert_eq!(batches[2], (vec![8, 2, 7, 9, 2, 7], vec![80, 90], vec![8, 9], vec![]));
    }
}

#[test]
fn a_broken_image_ends_training_with_its_name() {
    for threads in [1, 3] {
        let mut loader = start(Numbers { broken: vec![6, 5], ..Numbers::default() }, threads, Failures::Stop);
        assert!(loader.next().unwrap().is_ok());
        let error = loader.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "5.png: the image is cut off: its data ends too early");
        assert!(loader.next().is_none());
    }
}

#[test]
fn a_broken_image_may_be_replaced_by_the_next_of_its_batch() {
    let broken = || Numbers { broken: vec![1, 3], ..Numbers::default() };
    let batches = collect(start(broken(), 2, Failures::Replace { at_most: 2 })).unwrap();
    let cut_off = |number| format!("{number}.png: the image is cut off: its data ends too early");
    let expected = (
        vec![0, 2, 7, 2, 2, 7, 2, 2, 7, 0, 2, 7],
        vec![0, 20, 20, 0],
        vec![0, 2, 2, 0],
        vec![(1, cut_off(1)), (3, cut_off(3))],
    );
    assert_eq!(batches[0], expected);
    let error = collect(start(broken(), 2, Failures::Replace { at_most: 1 })).unwrap_err();
    assert!(error.to_string().contains("2 images can't be used, 1 are allowed"), "{error}");
    let all = Numbers { broken: (0..4).collect(), ..Numbers::default() };
    assert!(collect(start(all, 2, Failures::Replace { at_most: 9 })).is_err(), "nothing to replace them by");
}

#[test]
fn flips_that_are_left_go_with_their_image() {
    let broken = || Numbers { broken: vec![1, 3], ..Numbers::default() };
    let flips = |threads, failures| -> Vec<(usize, Flips)> {
        let options = Options { failures, ..Options::new(threads) };
        // With room for two batches, three threads share them.
        let mut loader = Loader::start_within(1, Arc::new(broken()), requests(10, 4), options).unwrap();
        let batch = loader.next().unwrap().unwrap();
        batch.indices.iter().copied().zip(batch.flips).collect()
    };
    let of = |sample| (sample, Flips { horizontal: sample % 2 == 1, vertical: sample % 3 == 0 });
    for threads in [1, 3] {
        let black = |sample| (sample, Flips::default());
        assert_eq!(flips(threads, Failures::Report), [of(0), black(1), of(2), black(3)]);
        assert_eq!(flips(threads, Failures::Replace { at_most: 2 }), [of(0), of(2), of(2), of(0)]);
    }
}

#[test]
fn scoring_gets_each_failure_in_its_place_also_when_the_decoder_panics() {
    for threads in [1, 2] {
        let numbers = Numbers { broken: vec![1], panics: vec![2, 9], ..Numbers::default() };
        let batches = collect(start(numbers, threads, Failures::Report)).unwrap();
        assert_eq!(batches[0].0, [0, 2, 7, 0, 0, 0, 0, 0, 0, 3, 2, 7]);
        assert_eq!(batches[0].3.iter().map(|failure| failure.0).collect::<Vec<_>>(), [1, 2]);
        assert!(batches[2].3[0].1.starts_with("9.png: the decoder gave up"), "{:?}", batches[2].3);
        assert_eq!(batches.iter().map(|batch| batch.2.len()).sum::<usize>(), 10);
    }
}

#[test]
fn a_mounted_file_system_that_fails_ends_the_job_to_be_tried_again_and_says_nothing_of_its_images() {
    for code in [libc::EIO, libc::ESTALE, libc::ETIMEDOUT, libc::ENOTCONN, libc::ENFILE] {
        for failures in [Failures::Report, Failures::Stop, Failures::Replace { at_most: 9 }] {
            let error =
                collect(start(Numbers { unread: vec![(6, code)], ..Numbers::default() }, 1, failures)).unwrap_err();
            assert_eq!(error.cause(), Cause::Storage, "{failures:?}: {error}");
            assert!(error.to_string().starts_with("6.png: reading failed: "), "{error}");
        }
    }
    // These say something of the file: a device, and what the file system can't read.
    for code in [libc::ENXIO, libc::EOVERFLOW] {
        let numbers = Numbers { unread: vec![(6, code)], ..Numbers::default() };
        let failures: Vec<_> =
            collect(start(numbers, 1, Failures::Report)).unwrap().into_iter().flat_map(|batch| batch.3).collect();
        assert_eq!(failures.len(), 1, "{failures:?}");
    }
}

#[test]
fn batches_that_threads_share_are_the_same() {
    let numbers = || Numbers { broken: vec![1, 6], panics: vec![2, 9], ..Numbers::default() };
    let expected = collect(start(numbers(), 1, Failures::Report)).unwrap();
    for threads in [2, 3, 7] {
        let options = Options { failures: Failures::Report, ..Options::new(threads) };
        // Room for two batches, whatever they take.
        let loader = Loader::start_within(1, Arc::new(numbers()), requests(10, 4), options).unwrap();
        assert_eq!(loader.prefetch(), 2);
        assert_eq!(collect(loader).unwrap(), expected, "{threads} threads");
    }
}

#[test]
fn what_was_made_ahead_is_told_with_the_time_it_took() {
    let slow = Numbers { slow: Some(Duration::from_millis(10)), ..Numbers::default() };
    let options = Options { threads: 1, prefetch: 2, failures: Failures::Stop };
    let mut loader = Loader::start(Arc::new(slow), requests(4, 2), options).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // Two batches of two images, of which each sleeps.
    while loader.head_start() < Duration::from_millis(40) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(loader.head_start() >= Duration::from_millis(40));
    while loader.next().transpose().unwrap().is_some() {}
    assert_eq!(loader.head_start(), Duration::ZERO);
}

#[test]
fn no_more_is_made_than_asked_to_be_ready() {
    let numbers = Arc::new(Numbers::default());
    let options = Options { threads: 2, prefetch: 3, failures: Failures::Stop };
    let loader = Loader::start(numbers.clone(), requests(100, 1), options).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while numbers.rendered.load(Ordering::Relaxed) < 3 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(numbers.rendered.load(Ordering::Relaxed), 3);
    drop(loader);
    assert_eq!(Arc::strong_count(&numbers), 1, "no thread is left");
}

#[test]
fn dropping_it_waits_for_the_image_at_hand_alone() {
    let slow = Arc::new(Numbers { slow: Some(Duration::from_millis(20)), ..Numbers::default() });
    let started = Instant::now();
    let request = std::iter::once(Request { epoch: 0, samples: vec![0; 1000] });
    drop(Loader::start(slow.clone(), request, Options::new(2)).unwrap());
    // The whole batch would take 20 s.
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(Arc::strong_count(&slow), 1);
}

#[test]
fn files_are_the_same_with_and_without_a_cache_and_with_any_number_of_threads() {
    let root = tempfile::tempdir().unwrap();
    for number in 0..12_u32 {
        let image = pattern(20 + number, 30);
        let (name, bytes) = match number % 2 {
            0 => (format!("a/{number}.png"), encoded(&image, ImageFormat::Png)),
            _ => (format!("b/{number}.jpg"), jpeg(&image)),
        };
        put(root.path(), &name, bytes);
    }
    let dataset = Arc::new(open(&Source::new(root.path()), Labels::Discover).unwrap());
    let augmentation = Augmentation { crop: Some(RandomCrop::default()), rotation: 10.0, ..Augmentation::default() };
    let run = |cache, threads| {
        let view = View::training(Preprocessing::for_size(16), augmentation.clone(), 5);
        let images = Arc::new(Images::new(dataset.clone(), view).cache(cache));
        let twice = requests(12, 5).chain(requests(12, 5));
        collect(Loader::start(images, twice, Options::new(threads)).unwrap()).unwrap()
    };
    let expected = run(0, 1);
    assert_eq!(expected[0].1, [0, 0, 0, 0, 0]);
    for (cache, threads) in [(0, 3), (1 << 20, 1), (1 << 20, 3), (6_000, 2)] {
        assert_eq!(run(cache, threads), expected, "cache {cache}, threads {threads}");
    }
}

#[test]
fn an_image_of_twice_the_input_s_size_is_the_same_with_and_without_a_cache() {
    let root = tempfile::tempdir().unwrap();
    let (width, height) = (32, 32);
    put(root.path(), "a/0.jpg", jpeg(&pattern(width, height)));
    put(root.path(), "b/1.png", encoded(&pattern(width, height), ImageFormat::Png));
    let dataset = Arc::new(open(&Source::new(root.path()), Labels::Discover).unwrap());
    let preprocessing = Preprocessing { resize_size: 16, ..Preprocessing::for_size(16) };
    let whole = RandomCrop { scale: [1.0, 1.0], ratio: [1.0, 1.0] };
    let augmentation = Augmentation { crop: Some(whole), ..Augmentation::default() };
    for view in [View::evaluation(preprocessing.clone()), View::training(preprocessing, augmentation, 5)] {
        let run = |cache| {
            let images = Arc::new(Images::new(dataset.clone(), view.clone()).cache(cache));
            collect(Loader::start(images, requests(2, 2).chain(requests(2, 2)), Options::new(1)).unwrap()).unwrap()
        };
        assert_eq!(run(0), run(1 << 20), "{view:?}");
    }
}

#[test]
fn what_is_wrong_with_a_file_names_it() {
    let root = tempfile::tempdir().unwrap();
    put(root.path(), "a/empty.png", "");
    put(root.path(), "a/text.jpg", "no image");
    put(root.path(), "b/gone.png", "");
    let dataset = Arc::new(open(&Source::new(root.path()), Labels::Discover).unwrap());
    std::fs::remove_file(root.path().join("b/gone.png")).unwrap();
    let images = Arc::new(Images::new(dataset, View::evaluation(Preprocessing::for_size(8))));
    let options = Options { failures: Failures::Report, ..Options::new(1) };
    let batches = collect(Loader::start(images, requests(3, 3), options).unwrap()).unwrap();
    let path = |name: &str| root.path().join(name).display().to_string();
    let expected = [
        (0, format!("{}: the file is empty (0 bytes)", path("a/empty.png"))),
        (1, format!("{}: not a JPEG, PNG, BMP, GIF, TIFF or WebP image", path("a/text.jpg"))),
        (2, format!("{}: no such file or folder", path("b/gone.png"))),
    ];
    assert_eq!(batches[0].3, expected);
}
