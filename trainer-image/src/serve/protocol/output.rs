//! The outputs of an answer, as JSON or as binary data.

use serde::Serialize;

use super::{Request, Wanted};
use crate::serve::error::ServeError;
use crate::serve::models::{Judged, Version};

/// Name of the class that the model decides for.
pub(super) const LABEL: &str = "label";
/// Its index.
pub(super) const CLASS: &str = "class";
/// Probability of each class.
pub(super) const PROBABILITIES: &str = "probabilities";
/// What they are the softmax of.
pub(super) const LOGITS: &str = "logits";

/// A tensor of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) struct Output {
    pub(in crate::serve) name: &'static str,
    pub(in crate::serve) shape: Vec<i64>,
    pub(in crate::serve) data: Data,
    /// Whether it goes behind the JSON object.
    pub(in crate::serve) binary: bool,
}

/// Its elements, in row-major order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(in crate::serve) enum Data {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
    Texts(Vec<String>),
}

impl Data {
    /// The protocol's name of the type.
    pub(in crate::serve) fn datatype(&self) -> &'static str {
        match self {
            Data::Floats(_) => "FP32",
            Data::Integers(_) => "INT64",
            Data::Texts(_) => "BYTES",
        }
    }

    /// As binary data: little-endian, texts with their lengths before them.
    pub(in crate::serve) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Data::Floats(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Data::Integers(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Data::Texts(values) => values
                .iter()
                .flat_map(|text| (text.len() as u32).to_le_bytes().into_iter().chain(text.bytes()))
                .collect(),
        }
    }
}

/// A tensor as JSON. Numbers are the shortest ones that mean the same 32 bits.
#[derive(Serialize)]
pub(in crate::serve) struct Written<'a> {
    name: &'static str,
    datatype: &'static str,
    shape: &'a [i64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Data>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

impl Output {
    /// Its part of the JSON object; binary data are added to `binary`.
    pub(in crate::serve) fn write<'a>(&'a self, binary: &mut Vec<u8>) -> Written<'a> {
        let bytes = self.binary.then(|| self.data.to_bytes());
        let written = Written {
            name: self.name,
            datatype: self.data.datatype(),
            shape: &self.shape,
            parameters: bytes.as_ref().map(|bytes| BinarySize { binary_data_size: bytes.len() }),
            data: (!self.binary).then_some(&self.data),
        };
        binary.extend(bytes.unwrap_or_default());
        written
    }
}

/// Values of an answer from which on it is made on another thread.
const LARGE: usize = 1 << 14;
/// Most values of an answer: of a thousand classes for all images that may wait, several times over.
const MOST: usize = 1 << 23;
/// As many values as take the time and the memory of a text of the classification extension.
const TEXT: usize = 8;

impl Wanted {
    /// Values for each image.
    fn values(&self, classes: usize) -> usize {
        match (self.name.as_str(), self.classification) {
            (PROBABILITIES | LOGITS, Some(most)) => TEXT * most.min(classes),
            (PROBABILITIES | LOGITS, None) => classes,
            _ => 1,
        }
    }
}

/// Whether the answer about so many images takes a while to make.
///
/// # Errors
/// It would be larger than answers may be.
pub(in crate::serve) fn is_large(request: &Request, classes: usize, images: usize) -> Result<bool, ServeError> {
    let each = match request.outputs.as_slice() {
        // Label, class, probabilities and logits.
        [] => 2 + 2 * classes,
        outputs => outputs.iter().map(|wanted| wanted.values(classes)).sum(),
    };
    let values = images.saturating_mul(each);
    if values > MOST {
        let text = format!(
            "the answer would have {values} values ({images} images of {each}; a text of classification counts {TEXT}), more than the \
             {MOST} allowed: send the images in parts, or ask for fewer outputs"
        );
        return Err(ServeError::TooLarge(text));
    }
    Ok(values > LARGE)
}

/// The outputs that a request asks for, or all.
///
/// # Errors
/// There is no output of that name.
pub(in crate::serve) fn outputs(
    request: &Request,
    version: &Version,
    judged: &[Judged],
) -> Result<Vec<Output>, ServeError> {
    let all;
    let wanted = if request.outputs.is_empty() {
        all = [LABEL, CLASS, PROBABILITIES, LOGITS].map(|name| Wanted { name: name.to_owned(), ..Wanted::default() });
        all.as_slice()
    } else {
        request.outputs.as_slice()
    };
    let images = judged.len() as i64;
    let classes = version.card.classes.len() as i64;
    let floats =
        |of: fn(&Judged) -> &[f32]| Data::Floats(judged.iter().flat_map(|one| of(one).iter().copied()).collect());
    let output = |wanted: &Wanted| {
        let (name, shape, data, values): (_, _, _, Option<fn(&Judged) -> &[f32]>) = match wanted.name.as_str() {
            LABEL => {
                let names = judged.iter().map(|one| version.class(one.class).to_owned()).collect();
                (LABEL, vec![images], Data::Texts(names), None)
            }
            CLASS => (CLASS, vec![images], Data::Integers(judged.iter().map(|one| one.class as i64).collect()), None),
            PROBABILITIES => {
                let values: fn(&Judged) -> &[f32] = |one| &one.answer.probabilities;
                (PROBABILITIES, vec![images, classes], floats(values), Some(values))
            }
            LOGITS => {
                let values: fn(&Judged) -> &[f32] = |one| &one.answer.logits;
                (LOGITS, vec![images, classes], floats(values), Some(values))
            }
            other => {
                let text =
                    format!("there is no output {other:?}: there are {LABEL}, {CLASS}, {PROBABILITIES}, {LOGITS}");
                return Err(ServeError::Request(text));
            }
        };
        let (shape, data) = match (wanted.classification, values) {
            (Some(most), Some(values)) => {
                let most = most.min(version.card.classes.len());
                let texts = judged.iter().flat_map(|one| best(version, values(one), most)).collect();
                (vec![images, most as i64], Data::Texts(texts))
            }
            _ => (shape, data),
        };
        Ok(Output { name, shape, data, binary: wanted.binary.unwrap_or(request.binary_output) })
    };
    wanted.iter().map(output).collect()
}

/// The largest values as the classification extension writes them: `value:index:name`.
fn best<'a>(version: &'a Version, values: &'a [f32], most: usize) -> impl Iterator<Item = String> + use<'a> {
    let order = most_first(values, most);
    order.into_iter().map(|index| format!("{:.6}:{index}:{}", values[index], version.class(index)))
}

/// The places of the largest values, at most so many, the largest first, the first of equals first.
pub(in crate::serve) fn most_first(values: &[f32], most: usize) -> Vec<usize> {
    let larger = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    let mut order: Vec<usize> = (0..values.len()).collect();
    if most < order.len() {
        order.select_nth_unstable_by(most, larger);
        order.truncate(most);
    }
    order.sort_unstable_by(larger);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_written_in_json_and_in_binary() {
        let output = |data, binary| Output { name: "x", shape: vec![1], data, binary };
        let outputs = [
            output(Data::Floats(vec![0.1]), false),
            output(Data::Integers(vec![-2]), true),
            output(Data::Texts(vec!["é".into()]), true),
        ];
        let mut binary = Vec::new();
        let shown: Vec<_> = outputs.iter().map(|output| output.write(&mut binary)).collect();
        assert_eq!(
            serde_json::to_string(&shown).unwrap(),
            concat!(
                r#"[{"name":"x","datatype":"FP32","shape":[1],"data":[0.1]},"#,
                r#"{"name":"x","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}},"#,
                r#"{"name":"x","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":6}}]"#
            )
        );
        assert_eq!(binary, b"\xfe\xff\xff\xff\xff\xff\xff\xff\x02\0\0\0\xc3\xa9");
    }

    #[test]
    fn the_largest_values_come_first_and_the_first_of_equals_before_the_others() {
        let values = [0.1, 0.4, 0.1, 0.4, -0.0];
        for most in 0..7 {
            assert_eq!(most_first(&values, most), [1, 3, 0, 2, 4][..most.min(5)], "{most}");
        }
        assert!(most_first(&[], 2).is_empty());
    }

    #[test]
    fn an_answer_is_bounded_before_anything_is_computed_for_it() {
        let asking = |outputs: &[(&str, Option<usize>)]| Request {
            outputs: outputs
                .iter()
                .map(|(name, classification)| Wanted {
                    name: (*name).to_owned(),
                    binary: None,
                    classification: *classification,
                })
                .collect(),
            ..Request::default()
        };
        let all = asking(&[]);
        let best = asking(&[(PROBABILITIES, Some(5)); 16]);
        let every = asking(&[(LOGITS, Some(usize::MAX)); 16]);
        let named = asking(&[(LABEL, Some(9)), (CLASS, None)]);
        for (request, classes, images, expected) in [
            (&all, 1000, 1, Ok(false)),
            (&all, 1000, 256, Ok(true)),
            (&named, 1000, 256, Ok(false)),
            (&best, 1000, 256, Ok(true)),
            (&every, 2, 256, Ok(true)),
            (&every, 1000, 1, Ok(true)),
        ] {
            assert_eq!(is_large(request, classes, images), expected, "{classes} classes, {images} images");
        }
        let refused = is_large(&every, 1000, 256).unwrap_err();
        let sentence = "the answer would have 32768000 values (256 images of 128000; a text of classification counts 8), more than the \
                        8388608 allowed: send the images in parts, or ask for fewer outputs";
        assert_eq!(refused, ServeError::TooLarge(sentence.to_owned()));
        assert!(is_large(&all, 1 << 40, usize::MAX).is_err());
    }
}
