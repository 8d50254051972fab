//! How messages are read and written: as tonic does, but one of very many parts is refused before memory is taken for them. A part
//! of two bytes, an input without anything in it, takes hundreds.

use std::marker::PhantomData;

use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{self, BufferSettings, DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Most fields of a message, those of its parts not counted: a request has one input, a few outputs and parameters.
const MOST: usize = 1024;

/// The codec of the service.
pub(super) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Codec(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Bounded<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Bounded<U> {
        Bounded(ProstDecoder::new(BufferSettings::default()))
    }
}

/// Reads messages of no more than [`MOST`] fields.
pub(super) struct Bounded<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for Bounded<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The bytes of a message are in one piece.
        check_parts(bytes::Buf::chunk(message))?;
        self.0.decode(message)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// That a message has no more than [`MOST`] fields, as far as it can be read.
pub(super) fn check_parts(mut message: &[u8]) -> Result<(), Status> {
    let mut parts = 0;
    while let Ok((tag, kind)) = decode_key(&mut message)
        && skip_field(kind, tag, &mut message, DecodeContext::default()).is_ok()
    {
        parts += 1;
        if parts > MOST {
            return Err(Status::invalid_argument(format!("the message has more than {MOST} fields")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_very_many_parts_is_refused() {
        // Inputs without anything in them.
        let message = |inputs: usize| b"\x2a\0".repeat(inputs);
        assert!(check_parts(&message(MOST)).is_ok());
        let refusal = check_parts(&message(MOST + 1)).unwrap_err();
        assert_eq!(
            (refusal.code(), refusal.message()),
            (tonic::Code::InvalidArgument, "the message has more than 1024 fields")
        );
        // What can't be read is for the decoder to say.
        assert!(check_parts(b"\x2a\xff").is_ok());
    }
}
