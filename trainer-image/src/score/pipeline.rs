//! The images of a process's shards on their way to rows. Loading, the network and writing go on at the same time, each at its own
//! pace, with bounded queues between: the network waits for neither the writer nor the end of a part.
//!
//! ```text
//!  loader's threads ─► batches ─► network (this thread) ─► parts ─► writer's thread: note, commit
//! ```
//!
//! A batch has images of one part alone. Which images go through the network together is then the same after a kill as
//! without one, and with it each bit of the rows.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use crds::contract::Cause;

use super::judge::Judge;
use super::output::{Prediction, Row, Writer};
use crate::data::{DataError, Images, Loader, Request};
use crate::fault::Fault;
use crate::inference::{Classifier, decide};
use crate::input::{Rows, ahead, rows_later};
use crate::progress::{Meter, ProgressHandle};

/// Parts that wait for the writer at most.
const PARTS: usize = 2;

/// Rows of a range of inputs, in their order.
type PartRows = (Range<usize>, Vec<Row>);

/// What scores the images of a process's shards.
pub(super) struct Pipeline {
    pub(super) classifier: Classifier,
    pub(super) images: Arc<Images>,
    /// Loads the batches of [`requests`].
    pub(super) loader: Loader<Images>,
    /// What is to be scored.
    pub(super) due: VecDeque<Range<usize>>,
}

/// Rows that are scored, on their way into parts.
struct Scored<'a> {
    /// Ranges that are still to be filled, the first one with `rows`.
    due: VecDeque<Range<usize>>,
    rows: Vec<Row>,
    parts: &'a SyncSender<PartRows>,
}

/// A batch whose answers are not read yet.
struct Unread {
    rows: Rows,
    images: usize,
    failures: Vec<(usize, DataError)>,
}

/// How far the process is.
struct Course<'a> {
    done: u64,
    total: u64,
    meter: Meter,
    progress: Option<&'a ProgressHandle>,
}

impl Pipeline {
    /// Scores what is missing and commits it, part by part.
    pub(super) fn run(
        self,
        writers: &mut [Writer],
        judge: Option<&Judge>,
        progress: Option<&ProgressHandle>,
    ) -> Result<(), Fault> {
        let Pipeline { classifier, images, loader, due } = self;
        let (done, total) = (rows_done(writers), rows_in(writers));
        let mut course = Course { done, total, meter: Meter::new(done), progress };
        thread::scope(|scope| {
            let (parts, scored) = sync_channel(PARTS);
            let images = &*images;
            let writing = scope.spawn(move || write(writers, judge, images, scored));
            let computed = compute(&classifier, loader, Scored { due, rows: Vec::new(), parts: &parts }, &mut course);
            drop(parts);
            let written = writing.join().unwrap_or_else(|panic| resume_unwind(panic));
            // Why a writer has ended says more than that it has.
            written.and(computed)
        })
    }
}

/// Takes batches from the loader through the network.
fn compute(
    classifier: &Classifier,
    mut loader: Loader<Images>,
    mut scored: Scored<'_>,
    course: &mut Course<'_>,
) -> Result<(), Fault> {
    let ahead = ahead(classifier.device());
    let mut unread = VecDeque::new();
    while let Some(batch) = loader.next() {
        let mut batch = batch?;
        unread.push_back(Unread {
            rows: rows_later(&classifier.logits(&classifier.tensor(&batch.pixels)?)?)?,
            images: batch.labels.len(),
            failures: std::mem::take(&mut batch.failures),
        });
        loader.recycle(batch);
        if !read(classifier, &mut unread, ahead, &mut scored, course)? {
            // The writer has ended, and says why.
            return Ok(());
        }
    }
    read(classifier, &mut unread, 0, &mut scored, course).map(drop)
}

/// Turns the answers to all but the newest `left` batches into rows. Tells whether there is somebody to write them.
fn read(
    classifier: &Classifier,
    unread: &mut VecDeque<Unread>,
    left: usize,
    scored: &mut Scored<'_>,
    course: &mut Course<'_>,
) -> Result<bool, Fault> {
    let (classes, threshold) = (classifier.classes(), classifier.card().threshold.map(|threshold| threshold as f32));
    while unread.len() > left
        && let Some(batch) = unread.pop_front()
    {
        let probabilities = batch.rows.rows()?;
        let predictions = probabilities.chunks_exact(classes.len()).map(|row| predict(row, classes, threshold));
        let mut rows: Vec<Row> = predictions.collect();
        for (place, error) in &batch.failures {
            rows[*place] = Err(error.to_string());
        }
        course.add(batch.images as u64);
        if !scored.add(rows) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Commits parts as they come, each to its shard.
fn write(
    writers: &mut [Writer],
    judge: Option<&Judge>,
    images: &Images,
    scored: Receiver<PartRows>,
) -> Result<(), Fault> {
    let total = rows_in(writers);
    let mut last = Instant::now();
    for (range, rows) in scored {
        let Some(writer) = writers.iter_mut().find(|writer| writer.range().contains(&range.start)) else {
            return Err(Fault::new(Cause::Bug, format!("the inputs {range:?} are none of this process's shards")));
        };
        if let Some(judge) = judge
            && writer.may_commit()?
        {
            // Before the rows: a part that is there has been judged.
            judge.note(writer.shard(), &range, &rows, &images.dataset().samples[range.clone()])?;
        }
        let count = range.len();
        writer.commit(range, &rows)?;
        let images_per_second = count as f64 / last.elapsed().as_secs_f64();
        last = Instant::now();
        tracing::info!(rows = rows_done(writers), total, images_per_second, "rows committed");
    }
    Ok(())
}

/// Rows that are committed.
fn rows_done(writers: &[Writer]) -> u64 {
    writers.iter().map(|writer| writer.rows_done() as u64).sum()
}

/// Rows that there will be.
fn rows_in(writers: &[Writer]) -> u64 {
    writers.iter().map(|writer| writer.range().len() as u64).sum()
}

impl Scored<'_> {
    /// Takes the next rows, and hands a part over that is full. Tells whether there is somebody to take it.
    fn add(&mut self, rows: Vec<Row>) -> bool {
        self.rows.extend(rows);
        if self.due.front().is_none_or(|range| range.len() != self.rows.len()) {
            return true;
        }
        let range = self.due.pop_front().unwrap_or_default();
        self.parts.send((range, std::mem::take(&mut self.rows))).is_ok()
    }
}

impl Course<'_> {
    fn add(&mut self, images: u64) {
        self.done += images;
        let (done, total, meter) = (self.done, self.total, &mut self.meter);
        meter.add(done, images);
        if let Some(handle) = self.progress {
            handle.update(|progress| {
                "Scoring".clone_into(&mut progress.stage);
                progress.step = done;
                progress.total_steps = total;
                progress.images_per_second = meter.images_per_second();
                progress.eta_seconds = meter.eta_seconds(done, total);
            });
        }
    }
}

/// The batches of some ranges, one range after the other.
pub(super) fn requests(ranges: Vec<Range<usize>>, batch_size: usize) -> impl Iterator<Item = Request> + Send + 'static {
    ranges.into_iter().flat_map(move |range| {
        let end = range.end;
        range
            .step_by(batch_size)
            .map(move |first| Request { epoch: 0, samples: (first..(first + batch_size).min(end)).collect() })
    })
}

/// The row of an image by its probabilities. One on which the network overflows costs its own row, not the job.
fn predict(probabilities: &[f32], classes: &[String], threshold: Option<f32>) -> Row {
    match probabilities.iter().zip(classes).find(|(value, _)| !value.is_finite()) {
        Some((value, class)) => {
            Err(format!("the network's answer is not finite (the probability of {class:?} is {value})"))
        }
        None => Ok(Prediction { class: decide(probabilities, threshold), probabilities: probabilities.to_vec() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_with_its_part_whatever_was_scored_before() {
        let samples = |parts: &[(usize, usize)]| -> Vec<Vec<usize>> {
            let ranges = parts.iter().map(|&(first, end)| first..end);
            requests(ranges.collect(), 3).map(|request| request.samples).collect()
        };
        let second = [vec![4, 5, 6], vec![7]];
        assert_eq!(samples(&[(0, 4), (4, 8)]), [&[vec![0, 1, 2], vec![3]], &second[..]].concat());
        assert_eq!(samples(&[(4, 8)]), second);
    }

    #[test]
    fn an_answer_that_is_not_finite_is_the_error_of_its_row() {
        let classes = ["left", "right"].map(str::to_owned);
        let sentence = |value| format!("the network's answer is not finite (the probability of \"right\" is {value})");
        assert_eq!(predict(&[0.25, f32::NAN], &classes, None), Err(sentence("NaN")));
        assert_eq!(predict(&[0.25, f32::INFINITY], &classes, Some(0.5)), Err(sentence("inf")));
        let prediction = Prediction { class: 1, probabilities: vec![0.25, 0.75] };
        assert_eq!(predict(&[0.25, 0.75], &classes, None), Ok(prediction));
    }
}
