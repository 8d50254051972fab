//! What a person sees of a job that runs: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use crds::contract::Progress;
use crds::status::Phase;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// What a person sees.
#[derive(Debug)]
pub(crate) enum View {
    /// A bar that is drawn anew several times a second.
    Bar(ProgressBar),
    /// Lines.
    Plain {
        /// When the last one on progress was written.
        last: Option<Instant>,
        /// The progress that it told.
        told: Option<Progress>,
    },
}

impl View {
    /// A view of the kind that fits: `plain`, or a bar.
    pub(crate) fn new(name: &str, plain: bool) -> View {
        if plain {
            return View::Plain { last: None, told: None };
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        // The template is a constant; were it faulty, the default style would do.
        let template = "{prefix} {spinner} [{bar:28}] {percent:>3}% {wide_msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        View::Bar(bar)
    }

    /// Says something that stays on the screen.
    pub(crate) fn say(&self, text: &str) {
        match self {
            View::Bar(bar) => bar.println(text),
            View::Plain { .. } => eprintln!("{text}"),
        }
    }

    /// Shows how far the job is.
    pub(crate) fn show(&mut self, phase: Phase, message: &str, attempt: u32, progress: Option<&Progress>) {
        let current = progress.filter(|progress| phase == Phase::Running && progress.attempt == attempt);
        match self {
            View::Bar(bar) => match current {
                Some(progress) => {
                    bar.set_length(progress.total_steps.max(1));
                    bar.set_position(progress.step);
                    bar.set_message(sentence(progress));
                }
                None => bar.set_message(message.to_owned()),
            },
            View::Plain { last, told } => {
                let Some(progress) = current else { return };
                if last.is_some_and(|last| last.elapsed() < EVERY) || told.as_ref() == Some(progress) {
                    return;
                }
                eprintln!("{}", sentence(progress));
                (*last, *told) = (Some(Instant::now()), Some(progress.clone()));
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let View::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Progress in a line: stage, epoch, step, loss, speed, time left.
fn sentence(progress: &Progress) -> String {
    let mut parts = Vec::new();
    if !progress.stage.is_empty() {
        parts.push(progress.stage.clone());
    }
    if progress.epochs > 0 {
        parts.push(format!("epoch {}/{}", progress.epoch, progress.epochs));
        parts.push(format!("step {}/{}", progress.step, progress.total_steps));
    } else if progress.total_steps > 0 {
        parts.push(format!("row {}/{}", progress.step, progress.total_steps));
    }
    parts.extend(progress.loss.map(|loss| format!("loss {loss:.4}")));
    parts.extend(progress.metric.map(|metric| format!("validation {metric:.4}")));
    if progress.images_per_second > 0.0 {
        parts.push(format!("{:.0} images/s", progress.images_per_second));
    }
    parts.extend(progress.eta_seconds.map(|seconds| format!("{} left", duration(seconds))));
    parts.join("  ")
}

/// Seconds as a person reads them.
pub(crate) fn duration(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes}:{rest:02} min"),
        _ => format!("{hours}:{minutes:02}:{rest:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_a_line() {
        let training = Progress {
            stage: "Training".into(),
            epoch: 2,
            epochs: 3,
            step: 140,
            total_steps: 270,
            loss: Some(0.213_42),
            images_per_second: 611.8,
            eta_seconds: Some(72),
            ..Progress::default()
        };
        let scoring = Progress { stage: "Scoring".into(), step: 10, total_steps: 360, ..Progress::default() };
        assert_eq!(sentence(&training), "Training  epoch 2/3  step 140/270  loss 0.2134  612 images/s  1:12 min left");
        assert_eq!(sentence(&scoring), "Scoring  row 10/360");
        assert_eq!(sentence(&Progress::default()), "");
    }
}
