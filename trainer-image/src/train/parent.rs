//! The model that a training starts from, as its own training judged it: for the comparison in the report.

use std::path::Path;

use crate::fault::Fault;
use crate::metrics::Summary;
use crate::model;

/// The figures of the model before.
#[derive(Debug)]
pub(super) struct Parent {
    /// Kind, namespace and name of the job that made it.
    pub(super) name: String,
    pub(super) summary: Summary,
    /// Digest of the list of images that it was validated on.
    pub(super) validation_digest: Option<String>,
}

/// The figures in the model folder `path`. None if it was never validated, or they can't be read: that is a warning, and
/// no reason to refuse weights which can.
pub(super) fn figures(path: &Path) -> Option<Parent> {
    read(path)
        .inspect_err(|fault| tracing::warn!("the report will not compare with the model before: {fault}"))
        .ok()
        .flatten()
}

fn read(path: &Path) -> Result<Option<Parent>, Fault> {
    let (card, history) = model::figures(path)?;
    Ok(history.evaluation.map(|summary| Parent {
        name: card.origin.job,
        summary,
        validation_digest: history.validation_digest,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crds::training_job::Recipe;
    use serde_json::json;

    use super::*;
    use crate::data::Preprocessing;
    use crate::metrics::{Evaluation, History};

    #[test]
    fn figures_that_are_damaged_or_not_there_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        assert!(figures(folder.path()).is_none());
        let mut evaluation = Evaluation::new(2);
        evaluation.add(1, &[0.25, 0.75]).unwrap();
        let history = History {
            evaluation: evaluation.summary(),
            validation_digest: Some("abc".to_owned()),
            ..History::default()
        };
        let text = serde_json::to_vec(&history).unwrap();
        let recipe: Recipe = serde_json::from_value(json!({
            "task": "ImageClassification", "model": {}, "data": {"uri": "file:///data"}, "training": {},
        }))
        .unwrap();
        let preprocessing = Preprocessing::from(&recipe.data);
        let card = |digest: String| {
            let card = model::Card {
                format: model::format(),
                architecture: recipe.model.architecture,
                classes: vec!["a".to_owned(), "b".to_owned()],
                preprocessing_hash: preprocessing.hash(),
                preprocessing: preprocessing.clone(),
                threshold: None,
                accuracy: None,
                recipe: recipe.clone(),
                origin: model::Origin { job: "TrainingJob default/flowers".to_owned(), ..Default::default() },
                files: [(model::METRICS.to_owned(), digest)].into(),
            };
            fs::write(folder.path().join(model::CARD), serde_json::to_vec(&card).unwrap()).unwrap();
        };
        fs::write(folder.path().join(model::METRICS), &text).unwrap();
        card(crate::folder::digest(&text));
        let found = figures(folder.path()).unwrap();
        assert_eq!((found.name.as_str(), found.summary.count), ("TrainingJob default/flowers", 1));
        assert_eq!(found.validation_digest.as_deref(), Some("abc"));
        card("sha256:0".to_owned());
        assert!(figures(folder.path()).is_none());
    }
}
