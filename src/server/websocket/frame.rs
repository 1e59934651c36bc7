//! `Frame`: an encoded data frame, shared by all sockets that it goes to.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tungstenite::Utf8Bytes;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data as Kind, OpCode};

/// Maximum size of a frame header without a mask.
const LONGEST_HEAD: usize = 10;

/// The data of one message. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Data {
    Text(Utf8Bytes),
    Binary(Bytes),
}

/// Converts the text of a frame without a copy.
pub(crate) fn to_byte_string(text: Utf8Bytes) -> ByteString {
    ByteString::try_from(Bytes::from(text)).unwrap_or_else(|_| unreachable!("a text frame is UTF-8"))
}

/// A data frame as it is on the wire. A clone shares the bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frame(Arc<Encoded>);

#[derive(Debug, PartialEq)]
struct Encoded {
    head: [u8; LONGEST_HEAD],
    head_len: usize,
    payload: Bytes,
}

impl Frame {
    fn new(kind: Kind, payload: Bytes) -> Self {
        let header = FrameHeader { opcode: OpCode::Data(kind), ..FrameHeader::default() };
        let mut head = [0; LONGEST_HEAD];
        let mut rest = &mut head[..];
        header.format(payload.len() as u64, &mut rest).expect("a header without a mask has at most 10 bytes");
        let head_len = LONGEST_HEAD - rest.len();
        Self(Arc::new(Encoded { head, head_len, payload }))
    }

    pub(crate) fn head(&self) -> &[u8] {
        &self.0.head[..self.0.head_len]
    }

    pub(crate) fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// Returns the size on the wire, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.0.head_len + self.0.payload.len()
    }
}

impl From<Data> for Frame {
    fn from(data: Data) -> Self {
        match data {
            Data::Text(text) => Self::new(Kind::Text, text.into()),
            Data::Binary(bytes) => Self::new(Kind::Binary, bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_encoded_as_the_rfc_says() {
        let text = Frame::from(Data::Text("hi".into()));
        assert_eq!((text.head(), &text.payload()[..]), (&[0x81, 2][..], &b"hi"[..]));
        let head = |len: usize| Frame::from(Data::Binary(vec![0; len].into())).head().to_vec();
        assert_eq!(head(125), [0x82, 125]);
        assert_eq!(head(126), [0x82, 126, 0, 126]);
        assert_eq!(head(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_clone_shares_the_payload() {
        let frame = Frame::from(Data::Binary(vec![7; 1_000_000].into()));
        assert_eq!(frame.clone().payload().as_ptr(), frame.payload().as_ptr());
    }
}
