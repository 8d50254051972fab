//! Holds a part of the samples out for validation: the same part every time, and the same share of each class.

use super::dataset::Dataset;
use super::random::{Random, Use};

/// Two parts of a data set, as indices into its samples, in the order of the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// To train on.
    pub training: Vec<usize>,
    /// Held out.
    pub validation: Vec<usize>,
    /// Classes with a single image: it stays in training, and validation says nothing about them.
    pub not_validated: Vec<String>,
}

impl Dataset {
    /// Holds `fraction` of each class out, rounded, but at least one image of a class that has two, and never all of it.
    ///
    /// Which images these are is decided by a hash of each one's path and the seed: adding an image to the data moves few of the
    /// others between the parts, and nothing depends on where the data lies.
    pub fn split(&self, fraction: f64, seed: u64) -> Split {
        let mut by_class: Vec<Vec<(u64, usize)>> = vec![Vec::new(); self.classes.len()];
        for (index, sample) in self.samples.iter().enumerate() {
            let Some(label) = sample.label else { continue };
            let name = fnv1a(sample.path.as_os_str().as_encoded_bytes());
            by_class[label as usize].push((Random::new(Use::Split, seed, name, 0).next(), index));
        }
        let mut validation = Vec::new();
        let mut not_validated = Vec::new();
        for (class, mut members) in self.classes.iter().zip(by_class) {
            if fraction <= 0.0 {
                break;
            }
            if members.len() < 2 {
                not_validated.push(class.clone());
                continue;
            }
            let held_out = (members.len() as f64 * fraction).round() as usize;
            members.sort_unstable();
            validation.extend(members.iter().take(held_out.clamp(1, members.len() - 1)).map(|(_, index)| *index));
        }
        validation.sort_unstable();
        let training = (0..self.samples.len()).filter(|index| validation.binary_search(index).is_err()).collect();
        Split { training, validation, not_validated }
    }
}

/// The 64-bit FNV-1a hash (Fowler, Noll, Vo): the standard library's hash may change between versions.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::dataset::Sample;
    use super::*;

    /// A data set with so many images in each class.
    fn images(counts: &[usize]) -> Dataset {
        let classes = (0..counts.len()).map(|class| class.to_string()).collect();
        let samples = counts.iter().zip(0_u32..).flat_map(|(&count, class)| {
            (0..count).map(move |image| Sample { path: format!("{class}/{image}.png").into(), label: Some(class) })
        });
        Dataset { root: "/data".into(), classes, samples: samples.collect(), archive: None, strangers: BTreeMap::new() }
    }

    #[test]
    fn each_class_gives_its_share_and_a_single_image_stays_in_training() {
        let data = images(&[100, 1, 2, 10, 0]);
        let split = data.split(0.2, 1);
        assert_eq!(data.subset(&split.validation).class_counts(), [20, 0, 1, 2, 0]);
        assert_eq!(data.subset(&split.training).class_counts(), [80, 1, 1, 8, 0]);
        assert_eq!(split.not_validated, ["1", "4"]);
        assert_eq!(split, data.split(0.2, 1));
        assert_ne!(split, data.split(0.2, 2));
    }

    #[test]
    fn no_fraction_holds_nothing_out_and_the_largest_leaves_an_image_to_train_on() {
        let data = images(&[5, 3]);
        assert_eq!(data.split(0.0, 1).validation, [] as [usize; 0]);
        assert_eq!(data.subset(&data.split(1.0, 1).training).class_counts(), [1, 1]);
    }

    #[test]
    fn an_added_image_moves_few_others() {
        let paths = |data: &Dataset| -> std::collections::BTreeSet<std::path::PathBuf> {
            data.split(0.2, 3).validation.iter().map(|&index| data.samples[index].path.clone()).collect()
        };
        let (before, after) = (paths(&images(&[100, 50])), paths(&images(&[101, 50])));
        assert!(before.symmetric_difference(&after).count() <= 2);
    }
}
