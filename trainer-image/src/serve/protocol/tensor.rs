//! Tensors of a request, and the images in them.

use bytes::Bytes;

use super::few::FEW;
use super::{IMAGE, INPUT};
use crate::serve::engine::Picture;
use crate::serve::error::ServeError;

/// The largest magnitude that an image's normalised value may have. Those of a picture are below 10, unscaled bytes below 256;
/// far beyond that, 16-bit activations overflow, and oneDNN's fused activations would turn the NaN that follows into 0.
const LARGEST: f32 = 1e3;

/// A tensor as a client sends it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::serve) struct Tensor {
    pub(in crate::serve) name: String,
    pub(in crate::serve) datatype: String,
    pub(in crate::serve) shape: Vec<i64>,
    pub(in crate::serve) content: Content,
}

/// Its elements, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::serve) enum Content {
    Floats(Vec<f32>),
    Bytes(Vec<Bytes>),
}

impl Default for Content {
    fn default() -> Content {
        Content::Floats(Vec::new())
    }
}

/// The 32-bit floats of binary data, little-endian.
pub(in crate::serve) fn floats(name: &str, data: &[u8]) -> Result<Vec<f32>, ServeError> {
    let (values, rest) = data.as_chunks::<4>();
    if !rest.is_empty() {
        let text = format!("tensor {name}: {} bytes are no whole number of FP32 values", data.len());
        return Err(ServeError::Request(text));
    }
    Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

/// The elements of a BYTES tensor as binary data, at most so many: each has its length before it, in 4 bytes, little-endian.
pub(in crate::serve) fn byte_elements(name: &str, data: &Bytes, most: usize) -> Result<Vec<Bytes>, ServeError> {
    let cut_off = || ServeError::Request(format!("tensor {name}: its last element is cut off"));
    let (mut elements, mut at) = (Vec::new(), 0);
    while at < data.len() {
        if elements.len() == most {
            return Err(ServeError::too_many(most));
        }
        let length: [u8; 4] = data.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(cut_off)?;
        let (start, length) = (at + 4, u32::from_le_bytes(length) as usize);
        let end = start.checked_add(length).filter(|end| *end <= data.len()).ok_or_else(cut_off)?;
        elements.push(data.slice(start..end));
        at = end;
    }
    Ok(elements)
}

/// That a tensor's shape has no more dimensions than are looked at.
pub(in crate::serve) fn check_dimensions(name: &str, count: usize) -> Result<(), ServeError> {
    if count <= FEW {
        return Ok(());
    }
    let text = format!("tensor {name} has a shape of {count} dimensions: no input of a model has more than 4");
    Err(ServeError::Request(text))
}

/// What is said of a request with so many inputs.
pub(super) fn not_one(count: usize) -> ServeError {
    ServeError::Request(format!("there are {count} inputs: give one, {IMAGE} (BYTES) or {INPUT} (FP32)"))
}

/// The images of a request, for a network that takes `size` by `size` pixels.
///
/// # Errors
/// A sentence on what is not as the model's metadata says.
pub(in crate::serve) fn pictures(tensors: Vec<Tensor>, size: usize) -> Result<Vec<Picture>, ServeError> {
    let request = ServeError::Request;
    let [tensor] = <[Tensor; 1]>::try_from(tensors).map_err(|tensors| not_one(tensors.len()))?;
    let Tensor { name, datatype, shape, content } = tensor;
    let misshapen = |expected: String| request(format!("tensor {name} has the shape {shape:?}, not {expected}"));
    let count = |dimensions: &[i64]| -> Option<usize> {
        dimensions.iter().try_fold(1_usize, |count, extent| count.checked_mul(usize::try_from(*extent).ok()?))
    };
    let few = |there: usize, needed: usize| {
        request(format!("tensor {name} has {there} elements, and its shape {shape:?} has {needed}"))
    };
    match (name.as_str(), content) {
        (IMAGE, Content::Bytes(elements)) => {
            // A column of images is as good as a row: some clients send batches so.
            let images = match shape.as_slice() {
                [_] | [_, 1] => count(&shape),
                _ => None,
            };
            let images = images.filter(|images| *images > 0).ok_or_else(|| misshapen("[n] with n from 1".into()))?;
            if images != elements.len() {
                return Err(few(elements.len(), images));
            }
            Ok(elements.into_iter().map(Picture::Encoded).collect())
        }
        (INPUT, Content::Floats(values)) => {
            let side = size as i64;
            let wrong = || misshapen(format!("[n, 3, {size}, {size}] with n from 1"));
            let (images, values_of_image) = match shape.as_slice() {
                &[images, 3, height, width] if images > 0 && height == side && width == side => {
                    (usize::try_from(images).map_err(|_| wrong())?, 3 * size * size)
                }
                _ => return Err(wrong()),
            };
            match images.checked_mul(values_of_image) {
                Some(needed) if needed == values.len() => {}
                needed => return Err(few(values.len(), needed.unwrap_or(usize::MAX))),
            }
            if let Some(place) = values.iter().position(|value| value.is_nan() || value.abs() > LARGEST) {
                let value = values[place];
                return Err(request(format!(
                    "tensor {name}: its value {place} is {value:?}; an image's are of the order of 1, and beyond ±{LARGEST:e} a \
                     network's sums overflow"
                )));
            }
            if images == 1 {
                return Ok(vec![Picture::Values(values)]);
            }
            Ok(values.chunks_exact(values_of_image).map(|row| Picture::Values(row.to_vec())).collect())
        }
        (IMAGE | INPUT, _) => {
            let expected = if name == IMAGE { "BYTES" } else { "FP32" };
            Err(request(format!("tensor {name} is of datatype {datatype}, not {expected}")))
        }
        _ => Err(request(format!("there is no input {name:?}: give {IMAGE} (BYTES) or {INPUT} (FP32)"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor(name: &str, shape: &[i64], content: Content) -> Tensor {
        Tensor { name: name.into(), datatype: "?".into(), shape: shape.into(), content }
    }

    fn refusal(tensors: Vec<Tensor>) -> String {
        pictures(tensors, 2).unwrap_err().to_string()
    }

    #[test]
    fn one_input_of_the_model_s_shape_is_taken() {
        let image = Content::Bytes(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        for shape in [&[2][..], &[2, 1]] {
            assert_eq!(pictures(vec![tensor(IMAGE, shape, image.clone())], 2).unwrap().len(), 2);
        }
        let values = Content::Floats((0..24).map(|value| value as f32).collect());
        let rows = pictures(vec![tensor(INPUT, &[2, 3, 2, 2], values)], 2).unwrap();
        let Picture::Values(second) = &rows[1] else { panic!("{rows:?}") };
        assert_eq!(*second, (12..24).map(|value| value as f32).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_as_the_metadata_says_is_named() {
        let floats = |count: usize| Content::Floats(vec![0.5; count]);
        let bytes = || Content::Bytes(vec![Bytes::new()]);
        let table = [
            (vec![], "there are 0 inputs: give one, image (BYTES) or input (FP32)"),
            (vec![tensor("x", &[1], bytes())], "there is no input \"x\": give image (BYTES) or input (FP32)"),
            (vec![tensor(IMAGE, &[1], floats(1))], "tensor image is of datatype ?, not BYTES"),
            (vec![tensor(INPUT, &[1], bytes())], "tensor input is of datatype ?, not FP32"),
            (vec![tensor(IMAGE, &[2], bytes())], "tensor image has 1 elements, and its shape [2] has 2"),
            (vec![tensor(IMAGE, &[0], bytes())], "tensor image has the shape [0], not [n] with n from 1"),
            (vec![tensor(IMAGE, &[-1], bytes())], "tensor image has the shape [-1], not [n] with n from 1"),
            (
                vec![tensor(INPUT, &[1, 3, 2, 3], floats(18))],
                "tensor input has the shape [1, 3, 2, 3], not [n, 3, 2, 2] with n from 1",
            ),
            (
                vec![tensor(INPUT, &[i64::MAX, 3, 2, 2], floats(12))],
                "tensor input has 12 elements, and its shape [9223372036854775807, 3, 2, 2] has 18446744073709551615",
            ),
        ];
        for (tensors, sentence) in table {
            assert_eq!(refusal(tensors), sentence);
        }
        let mut values = vec![0.0; 12];
        values[7] = f32::NAN;
        assert_eq!(
            refusal(vec![tensor(INPUT, &[1, 3, 2, 2], Content::Floats(values))]),
            "tensor input: its value 7 is NaN; an image's are of the order of 1, and beyond ±1e3 a network's sums overflow"
        );
        let far = |value| tensor(INPUT, &[1, 3, 2, 2], Content::Floats(vec![value; 12]));
        assert!(refusal(vec![far(-1.1e3)]).contains("its value 0 is -1100.0;"));
        assert!(refusal(vec![far(f32::NEG_INFINITY)]).contains("its value 0 is -inf;"));
        assert_eq!(pictures(vec![far(1e3)], 2).unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn binary_elements_come_back_as_they_were(elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6)) {
            let mut data = Vec::new();
            for element in &elements {
                data.extend((element.len() as u32).to_le_bytes());
                data.extend(element);
            }
            let read = byte_elements("a", &data.clone().into(), 6).unwrap();
            prop_assert_eq!(&read, &elements.iter().cloned().map(Bytes::from).collect::<Vec<_>>());
            data.push(1);
            prop_assert!(byte_elements("a", &data.into(), 7).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(data in prop::collection::vec(any::<u8>(), 0..64), shape in prop::collection::vec(any::<i64>(), 0..5)) {
            let data = Bytes::from(data);
            if let Ok(elements) = byte_elements("a", &data, 16) {
                let _ = pictures(vec![tensor(IMAGE, &shape, Content::Bytes(elements))], 2);
            }
            if let Ok(values) = floats("a", &data) {
                let _ = pictures(vec![tensor(INPUT, &shape, Content::Floats(values))], 2);
            }
        }
    }
}
