//! The judgement of a model between epochs: validation, and which epoch's weights are kept.

use crds::training::Metric;
use tch::Tensor;

use super::course::Course;
use super::evaluate::{Evaluated, evaluate_loaded};
use super::position::{Best, Figures};
use super::saving::WhenBusy;
use crate::fault::Fault;

impl Course<'_> {
    /// Validates the model as it is now, and keeps it if it is the best so far; none without validation images.
    pub(super) fn validate(&mut self) -> Result<Option<Figures>, Fault> {
        let setup = self.setup;
        let (Some(images), Some(loader)) = (&setup.validation, self.validation_images()?) else { return Ok(None) };
        let options = self.evaluation(images);
        self.replica.swap_average()?;
        self.replica.ddp.share_buffers()?;
        let (group, control, left_out) = (self.group, &mut self.control, &mut self.left_out);
        let evaluated =
            evaluate_loaded(&self.replica, group, images, loader, options, left_out, || Ok(control.stops(group)?))?;
        let Some(evaluated) = evaluated else {
            // The epoch's steps are done; the next attempt begins with this validation.
            self.replica.swap_average()?;
            self.save(WhenBusy::Wait)?;
            return Err(self.stopped()?);
        };
        let figures = self.agree_on(&evaluated)?;
        if let Some(figures) = figures {
            self.keep_if_best(figures);
        }
        self.replica.swap_average()?;
        Ok(figures)
    }

    /// Rank 0's figures on all ranks; none if no image was seen. What follows from them is decided on each rank by itself:
    /// they must be the same to the last bit.
    fn agree_on(&self, evaluated: &Evaluated) -> Result<Option<Figures>, Fault> {
        let (Some(accuracy), Some(loss)) = (evaluated.evaluation.accuracy(), evaluated.evaluation.loss()) else {
            return Ok(None);
        };
        let shared = Tensor::from_slice(&[accuracy, loss]).to_device(self.setup.device);
        self.group.broadcast(&shared, 0)?;
        let shared: Vec<f64> = Vec::try_from(&shared)?;
        Ok(Some(Figures { accuracy: shared[0], loss: shared[1] }))
    }

    fn keep_if_best(&mut self, Figures { accuracy, loss }: Figures) {
        let this = Best { epoch: self.position.epoch, accuracy, loss };
        let watched = self.setup.recipe.training.early_stopping.as_ref().map(|settings| settings.metric);
        if this.beats(self.position.best, watched.unwrap_or(Metric::Accuracy)) {
            self.position.best = Some(this);
            if self.place.is_first() {
                self.best = self.replica.model.state().snapshot();
            }
        }
        if let Some(progress) = &self.progress {
            progress.update(|progress| progress.metric = Some(accuracy));
        }
    }
}
