//! Images on their way before they are asked for: those of the next epoch during a validation, those of the validation during
//! the last steps before it.

use super::course::Course;
use super::evaluate::{EvaluationOptions, load};
use crate::data::{self, Failures, Images, Loader, Request};
use crate::fault::Fault;

/// What is being loaded. Nothing is known of it but by what it will give: a resume begins without.
#[derive(Default)]
pub(super) struct Ahead {
    /// The batches of all steps that are left, of this epoch and those after it.
    pub(super) training: Option<Loader<Images>>,
    /// Those of the validation after this epoch.
    validation: Option<Loader<Images>>,
}

impl Course<'_> {
    /// Batches from the next step on; to be put back at the end of the epoch.
    pub(super) fn training_images(&mut self) -> Result<Loader<Images>, Fault> {
        if let Some(loader) = self.ahead.training.take() {
            return Ok(loader);
        }
        let (sampler, rank) = (self.setup.sampler, self.place.rank as usize);
        let (this, first) = (self.position.epoch, self.position.step_in_epoch);
        let requests = (this..self.setup.recipe.training.epochs).flat_map(move |epoch| {
            let first = if epoch == this { first } else { 0 };
            let epoch = u64::from(epoch);
            sampler.batches(epoch, first, rank).map(move |samples| Request { epoch, samples })
        });
        Ok(Loader::start(self.setup.training.clone(), requests, self.loading())?)
    }

    /// Begins to load what the next validation needs, if there is one and it has not begun.
    pub(super) fn load_validation(&mut self) -> Result<(), Fault> {
        let setup = self.setup;
        if self.ahead.validation.is_none()
            && let Some(images) = &setup.validation
        {
            let options = self.evaluation(images);
            self.ahead.validation = Some(load(self.group, images, setup.step.batch_size, options)?);
        }
        Ok(())
    }

    /// The images of the validation after this epoch.
    pub(super) fn validation_images(&mut self) -> Result<Option<Loader<Images>>, Fault> {
        self.load_validation()?;
        Ok(self.ahead.validation.take())
    }

    /// How the validation after an epoch is done.
    pub(super) fn evaluation(&self, images: &Images) -> EvaluationOptions {
        let unreadable = self.setup.unreadable(images.dataset().samples.len());
        EvaluationOptions { threads: self.loading().threads, unreadable, scores: false }
    }

    fn loading(&self) -> data::Options {
        let data = &self.setup.recipe.data;
        let threads = match data.loader_threads {
            0 => self.place.threads,
            threads => threads as usize,
        };
        let at_most = self.setup.unreadable(self.setup.training.dataset().samples.len());
        let failures = if at_most == 0 { Failures::Stop } else { Failures::Replace { at_most } };
        data::Options { failures, ..data::Options::new(threads) }
    }
}
