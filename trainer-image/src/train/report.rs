//! The facts and pictures of a training's `report.html`.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use crds::contract::Cause;

use super::evaluate::Evaluated;
use super::position::Position;
use super::setup::Setup;
use crate::data::{Decoder, MAX_PIXELS};
use crate::fault::Fault;
use crate::metrics::History;
use crate::model::Card;
use crate::report::{FactGroup, Report, WrongImage, render as render_page};

/// Largest side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 160;

/// Renders the report of a training that has ended.
pub(super) fn render(
    name: &str,
    card: &Card,
    setup: &Setup,
    position: &Position,
    history: &History,
    evaluated: Option<&Evaluated>,
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
        history: Some(history),
        previous: None,
        wrong: evaluated.map(|evaluated| wrong_images(evaluated, setup)).unwrap_or_default(),
        facts: facts(card, setup, position, history),
    };
    render_page(&report).map_err(|error| Fault::new(Cause::Bug, format!("can't render the report: {error}")))
}

fn facts(card: &Card, setup: &Setup, position: &Position, history: &History) -> Vec<FactGroup> {
    let training = &card.recipe.training;
    let validation = setup.validation.as_ref().map(|images| images.dataset().samples.len());
    let data = FactGroup::new("Data")
        .fact("source", &card.recipe.data.uri)
        .fact("training images", setup.training.dataset().samples.len().to_string())
        .maybe("validation images", validation.map(|images| images.to_string()))
        .fact("input", format!("{0} x {0} pixels", card.preprocessing.crop_size))
        .fact("list's digest", &position.data_digest);
    let recipe = FactGroup::new("Training")
        .fact("epochs", training.epochs.to_string())
        .maybe("kept epoch", position.best.map(|best| (best.epoch + 1).to_string()))
        .fact("batch", format!("{} images on each of {} processes", training.batch_size, card.origin.world_size))
        .fact("optimizer", format!("{:?}", training.optimizer.settings().algorithm))
        .fact("learning rate", setup.schedule.base.to_string())
        .fact("schedule", format!("{:?}", setup.schedule.settings))
        .fact("warm-up", format!("{} steps", setup.schedule.warmup_steps))
        .fact("precision", format!("{:?}", training.precision))
        .fact("seed", training.seed.to_string());
    let run = FactGroup::new("Run")
        .fact("device", &card.origin.device)
        .fact("attempt", card.origin.attempt.to_string())
        .fact("time in epochs", format!("{:.1} s", history.seconds()))
        .fact("steps", position.step.to_string())
        .maybe("retrained from", card.origin.retrained_from.as_ref())
        .fact("trainer", &card.origin.trainer)
        .fact("libtorch", &card.origin.libtorch);
    vec![data, recipe, run]
}

fn wrong_images(evaluated: &Evaluated, setup: &Setup) -> Vec<WrongImage> {
    let Some(images) = &setup.validation else { return Vec::new() };
    let mut decoder = Decoder::new(MAX_PIXELS);
    let found = evaluated.worst.predictions();
    found
        .iter()
        .map(|wrong| WrongImage {
            name: wrong.name.clone(),
            label: wrong.label,
            predicted: wrong.predicted,
            probability: wrong.probability,
            label_probability: wrong.label_probability,
            thumbnail: thumbnail(&mut decoder, &images.dataset().root.join(&wrong.name)).unwrap_or_default(),
        })
        .collect()
}

/// A small PNG of an image file; none if it can't be read any more, which is no reason to lose the report.
fn thumbnail(decoder: &mut Decoder, file: &Path) -> Option<Vec<u8>> {
    let (width, height, pixels) = decoder.decode(&fs::read(file).ok()?).ok()?;
    let image = image::RgbImage::from_raw(width, height, pixels)?;
    let small = match width.max(height) <= THUMBNAIL {
        true => image.into(),
        false => image::DynamicImage::from(image).thumbnail(THUMBNAIL, THUMBNAIL),
    };
    let mut png = Vec::new();
    small.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).ok()?;
    Some(png)
}
