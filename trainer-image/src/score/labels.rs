//! Whether the labels of images are what the model can be judged by: those that are none of its classes are told, not passed over.

use crds::contract::Cause;

use crate::data::Dataset;
use crate::fault::Fault;

/// Labels, or classes, that a message names; of the rest it says how many there are.
const NAMED: usize = 5;
/// Characters of a name that a message shows: a column of a table may hold anything.
const SHOWN: usize = 40;

/// Looks at the labels of the images at `uri`. Returns what a person should know: which labels the model has no class for.
///
/// # Errors
/// [`Cause::BadData`] if no image has a label, or if most labels are no classes of the model.
pub(super) fn check(listed: &Dataset, uri: &str) -> Result<Option<String>, Fault> {
    let known = listed.samples.iter().filter(|sample| sample.label.is_some()).count();
    let unknown: usize = listed.strangers.values().map(Vec::len).sum();
    if known + unknown == 0 {
        return Err(Fault::new(Cause::BadData, format!("evaluate is set and no image of {uri} has a label"))
            .hint("lay the images out in class folders named as the model's classes, or give a table with labels"));
    }
    if unknown == 0 {
        return Ok(None);
    }
    let mut strangers: Vec<(&String, usize)> = listed.strangers.iter().map(|(name, of)| (name, of.len())).collect();
    strangers.sort_by(|(_, one), (_, other)| other.cmp(one));
    let names = some(strangers.into_iter().map(|(name, count)| format!("{} ({count})", quoted(name))));
    let text =
        format!("{unknown} of {} labelled images have a label that is no class of the model: {names}", known + unknown);
    if unknown > known {
        let classes = some(listed.classes.iter().map(|class| quoted(class)));
        return Err(Fault::new(Cause::BadData, format!("{uri}: {text}")).hint(format!(
            "name the folders or labels as the model's classes, which are {classes}; or leave out evaluate"
        )));
    }
    Ok(Some(format!("{text}; the figures leave them out")))
}

fn quoted(name: &str) -> String {
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}", format!("{}…", &name[..end])),
        None => format!("{name:?}"),
    }
}

/// The first names, and how many more there are.
fn some(mut names: impl ExactSizeIterator<Item = String>) -> String {
    let first: Vec<String> = names.by_ref().take(NAMED).collect();
    match names.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data::Sample;

    /// Images of a model with the classes rose and tulip: so many roses, and so many of each stranger.
    fn images(roses: usize, strangers: &[(&str, usize)]) -> Dataset {
        let strangers: BTreeMap<String, Vec<usize>> =
            strangers.iter().map(|(name, count)| ((*name).to_owned(), vec![0; *count])).collect();
        let sample = |label| Sample { path: "a.png".into(), label };
        let unlabelled = strangers.values().map(Vec::len).sum();
        let samples = [vec![sample(Some(0)); roses], vec![sample(None); unlabelled]].concat();
        let classes = vec!["rose".to_owned(), "tulip".to_owned()];
        Dataset { root: "/data".into(), classes, samples, archive: None, strangers }
    }

    fn told(data: &Dataset) -> Result<Option<String>, (Cause, String)> {
        check(data, "file:///data").map_err(|fault| (fault.cause(), fault.to_string()))
    }

    #[test]
    fn labels_that_are_no_classes_are_named_with_their_numbers() {
        assert_eq!(told(&images(4, &[])), Ok(None));
        let text = "3 of 7 labelled images have a label that is no class of the model: \"tulpe\" (2), \"rosen\" (1); the \
                    figures leave them out";
        assert_eq!(told(&images(4, &[("rosen", 1), ("tulpe", 2)])), Ok(Some(text.to_owned())));
    }

    #[test]
    fn a_model_is_not_judged_where_most_labels_are_unknown() {
        let text = "file:///data: 3 of 5 labelled images have a label that is no class of the model: \"rosen\" (3)";
        let fault = check(&images(2, &[("rosen", 3)]), "file:///data").unwrap_err();
        assert_eq!((fault.cause(), fault.to_string().as_str()), (Cause::BadData, text));
        assert!(fault.advice().contains("which are \"rose\", \"tulip\""), "{}", fault.advice());
        assert!(told(&images(2, &[("rosen", 2)])).is_ok(), "half of them is not most of them");
        let none = "evaluate is set and no image of file:///data has a label";
        assert_eq!(told(&images(0, &[])), Err((Cause::BadData, none.to_owned())));
    }

    #[test]
    fn many_and_long_names_are_cut() {
        let names: Vec<String> = (0..9).map(|number| format!("{number}{}", "x".repeat(60))).collect();
        let strangers: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let text = told(&images(50, &strangers)).unwrap().unwrap();
        assert!(text.contains("and 4 more") && text.len() < 400, "{text}");
    }
}
