//! The binary tensor data extension: a JSON object, and behind it the elements of the tensors that say how many bytes of it
//! are theirs, in the order of the tensors.

use bytes::Bytes;

use crate::serve::error::ServeError;

/// The header with the length of the JSON object.
pub(in crate::serve) const HEADER_LENGTH: &str = "inference-header-content-length";

/// The JSON object of a body and what comes behind it. `header` is the value of [`HEADER_LENGTH`], if there is one.
pub(in crate::serve) fn split(body: &Bytes, header: Option<&[u8]>) -> Result<(Bytes, Bytes), ServeError> {
    let Some(header) = header else { return Ok((body.clone(), Bytes::new())) };
    let length = std::str::from_utf8(header).ok().and_then(|text| text.parse::<usize>().ok());
    match length.filter(|length| *length <= body.len()) {
        Some(length) => Ok((body.slice(..length), body.slice(length..))),
        None => {
            let shown = String::from_utf8_lossy(header);
            let text = format!("{HEADER_LENGTH} is {shown:?}, and the body has {} bytes", body.len());
            Err(ServeError::Request(text))
        }
    }
}

/// What is left of the binary data while tensors take theirs.
pub(super) struct Remaining(Bytes);

impl Remaining {
    pub(super) fn new(data: Bytes) -> Remaining {
        Remaining(data)
    }

    /// The next `size` bytes, for a tensor.
    pub(super) fn take(&mut self, name: &str, size: usize) -> Result<Bytes, ServeError> {
        if size > self.0.len() {
            let text = format!("tensor {name} has binary_data_size {size}, and {} bytes are left", self.0.len());
            return Err(ServeError::Request(text));
        }
        Ok(self.0.split_to(size))
    }

    /// That nothing is left.
    pub(super) fn end(self) -> Result<(), ServeError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(ServeError::Request(format!("{left} bytes behind the JSON object belong to no tensor"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_split_where_the_header_says() {
        let body = Bytes::from_static(b"{}abc");
        let parts = |header| split(&body, header).map_err(|error| error.to_string());
        assert_eq!(parts(None), Ok((body.clone(), Bytes::new())));
        assert_eq!(parts(Some(b"2")), Ok((Bytes::from_static(b"{}"), Bytes::from_static(b"abc"))));
        for header in ["6", "-1", "2.0", "", "18446744073709551616"] {
            let text = format!("inference-header-content-length is {header:?}, and the body has 5 bytes");
            assert_eq!(parts(Some(header.as_bytes())), Err(text));
        }
    }

    #[test]
    fn tensors_take_their_bytes_in_turn_and_none_may_be_left() {
        let mut remaining = Remaining::new(Bytes::from_static(b"abc"));
        assert_eq!(remaining.take("x", 2).unwrap(), "ab");
        let error = remaining.take("y", 2).unwrap_err().to_string();
        assert_eq!(error, "tensor y has binary_data_size 2, and 1 bytes are left");
        assert_eq!(remaining.end().unwrap_err().to_string(), "1 bytes behind the JSON object belong to no tensor");
    }
}
