//! The facts and pictures of a training's `report.html`.

use std::path::Path;

use crds::contract::Cause;
use crds::schedule::ScheduleSettings;

use super::evaluate::Evaluated;
use super::gpu_use::GpuUse;
use super::position::Position;
use super::setup::Setup;
use crate::data::{Decoder, MAX_PIXELS};
use crate::fault::Fault;
use crate::metrics::History;
use crate::model::Card;
use crate::optim::Plateau;
use crate::report::{FactGroup, Previous, Relation, Report, WrongImage, render as render_page};

/// Images left out that are named.
const LEFT_OUT: usize = 100;
/// Learning rates that are drawn, about.
const RATES: u64 = 400;

/// Renders the report of a training that has ended.
pub(super) fn render(
    name: &str,
    card: &Card,
    setup: &Setup,
    position: &Position,
    history: &History,
    evaluated: Option<&Evaluated>,
    launch: Option<String>,
) -> Result<String, Fault> {
    let lead = format!(
        "{} trained on {} images of {} classes",
        card.architecture.name(),
        setup.training.dataset().samples.len(),
        card.classes.len()
    );
    let report = Report {
        kind: "Training report",
        title: name,
        lead: &lead,
        finished: &card.origin.finished,
        classes: &card.classes,
        evaluated_on: "validation images",
        evaluation: evaluated.map(|evaluated| &evaluated.evaluation),
        threshold: history.evaluation.as_ref().and_then(|summary| summary.threshold),
        history: Some(history),
        learning_rates: learning_rates(setup, position.step),
        findings: position.findings.iter().map(|found| (found.check.clone(), found.text.clone())).collect(),
        previous: setup.before.as_ref().map(|before| Previous {
            relation: Relation::Parent,
            name: &before.name,
            summary: &before.summary,
            same_images: before.validation_digest.is_some() && before.validation_digest == history.validation_digest,
        }),
        wrong: evaluated.map(|evaluated| wrong_images(evaluated, setup)).unwrap_or_default(),
        facts: facts(card, setup, position, history, launch),
    };
    render_page(&report).map_err(|error| Fault::new(Cause::Bug, format!("can't render the report: {error}")))
}

fn facts(card: &Card, setup: &Setup, position: &Position, history: &History, launch: Option<String>) -> Vec<FactGroup> {
    let training = &card.recipe.training;
    let validation = setup.validation.as_ref().map(|images| images.dataset().samples.len());
    let epochs = match position.epoch {
        done if done < training.epochs => format!("{done} of {}, stopped early", training.epochs),
        done => done.to_string(),
    };
    let data = FactGroup::new("Data")
        .fact("source", &card.recipe.data.uri)
        .fact("training images", setup.training.dataset().samples.len().to_string())
        .maybe("validation images", validation.map(|images| images.to_string()))
        .fact("input", format!("{0} x {0} pixels", card.preprocessing.crop_size))
        .fact("list's digest", &position.data_digest);
    let recipe = FactGroup::new("Training")
        .fact("epochs", epochs)
        .maybe("kept epoch", position.best.map(|best| (best.epoch + 1).to_string()))
        .fact("batch", format!("{} images on each of {} processes", training.batch_size, card.origin.world_size))
        .fact("optimizer", format!("{:?}", training.optimizer.settings().algorithm))
        .fact("learning rate", setup.schedule.base.to_string())
        .fact("schedule", format!("{:?}", setup.schedule.settings))
        .fact("warm-up", format!("{} steps", setup.schedule.warmup_steps))
        .fact("precision", format!("{:?}", training.precision))
        .fact("seed", training.seed.to_string());
    let origin = &card.origin;
    let run = FactGroup::new("Run")
        .fact("job", &origin.job)
        .fact("UID", &origin.uid)
        .fact("attempt", card.origin.attempt.to_string())
        .fact("time in epochs", format!("{:.1} s", history.seconds()))
        .fact("steps", position.step.to_string())
        .maybe("steps come to the GPU", launch)
        .maybe("spec's digest", origin.spec_digest.as_ref())
        .maybe("retrained from", origin.retrained_from.as_ref());
    let machine = FactGroup::new("Machine and versions")
        .fact("device", &origin.device)
        .maybe("its name", origin.device_name.as_ref())
        .maybe("driver", origin.driver.as_ref())
        .maybe("CUDA", origin.cuda.as_ref())
        .maybe("node", origin.node.as_ref())
        .fact("trainer", &origin.trainer)
        .fact("libtorch", &origin.libtorch);
    let mut groups = vec![data, recipe, run, machine];
    if let Some(seen) = setup.gpu_use.as_ref().map(GpuUse::figures) {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let memory = seen.memory.map(|(used, all)| format!("{:.1} of {:.1} GiB", gib(used), gib(all)));
        groups.push(
            FactGroup::new("GPUs in this attempt")
                .maybe("busy", seen.busy().map(|share| format!("{:.0} % of the time", 100.0 * share)))
                .maybe("most memory in use", memory)
                .maybe("highest temperature", seen.celsius.map(|celsius| format!("{celsius} °C"))),
        );
    }
    if !position.left_out.is_empty() {
        let (named, count) = (position.left_out.iter().take(LEFT_OUT), position.left_out.len());
        let group = FactGroup::new("Images left out").fact("in all", count.to_string());
        groups.push(named.enumerate().fold(group, |group, (number, said)| group.fact((number + 1).to_string(), said)));
    }
    groups
}

/// The learning rate of the steps that were made, a bounded number of them, by epochs. None where it depends on how the
/// training went: then each epoch's last one is known.
fn learning_rates(setup: &Setup, steps: u64) -> Vec<(f64, f64)> {
    let schedule = &setup.schedule;
    if steps == 0 || matches!(schedule.settings, ScheduleSettings::Plateau { .. }) {
        return Vec::new();
    }
    let every = steps.div_ceil(RATES);
    let last = steps - 1;
    let step = (0..steps).step_by(every as usize).chain((!last.is_multiple_of(every)).then_some(last));
    step.map(|step| {
        let epochs = (step + 1) as f64 / schedule.steps_per_epoch.max(1) as f64;
        (epochs, schedule.rate(step, &Plateau::default()))
    })
    .collect()
}

fn wrong_images(evaluated: &Evaluated, setup: &Setup) -> Vec<WrongImage> {
    let Some(images) = &setup.validation else { return Vec::new() };
    let mut decoder = Decoder::new(MAX_PIXELS);
    let found = evaluated.worst.predictions().iter();
    found
        .map(|wrong| WrongImage::new(wrong, images.dataset().thumbnail(&mut decoder, Path::new(&wrong.name))))
        .collect()
}
