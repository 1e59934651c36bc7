//! `GatewayCode`: accepts close code 1014 (bad gateway) from a client. It was registered after RFC 6455, and
//! tungstenite treats it as a protocol error.
//!
//! tungstenite does not expose the close frames that it refuses. So [`GatewayCode`] passes code 1013 to tungstenite
//! instead of 1014, and restores 1014 in the message and in the reply of tungstenite.

use std::io::Cursor;

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

use crate::server::websocket::close_code::{BAD_GATEWAY, TRY_AGAIN_LATER};

/// Maximum size of a frame header and the code at the start of its payload.
const LONGEST: usize = 14 + 2;

/// Difference of the second bytes of the two codes.
const DIFFERENCE: u8 = BAD_GATEWAY.to_be_bytes()[1] ^ TRY_AGAIN_LATER.to_be_bytes()[1];

/// Tracks the frames in the bytes that a client sends.
#[derive(Debug, Default)]
pub(crate) struct GatewayCode {
    /// The header of the current frame, and the code if it is a close frame.
    head: [u8; LONGEST],
    len: usize,
    /// Bytes of the payload that have yet to be read.
    payload: u64,
    /// Whether the code of the close frame was replaced.
    replaced: bool,
}

impl GatewayCode {
    /// Replaces the code if the next bytes of the client contain it.
    pub(crate) fn replace(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if self.payload == 0 {
                self.take_head(&mut bytes[at]);
                at += 1;
            } else {
                let taken = (bytes.len() - at).min(usize::try_from(self.payload).unwrap_or(usize::MAX));
                self.payload -= taken as u64;
                at += taken;
            }
        }
    }

    fn take_head(&mut self, byte: &mut u8) {
        self.head[self.len] = *byte;
        self.len += 1;
        let mut head = Cursor::new(&self.head[..self.len]);
        let (header, payload) = match FrameHeader::parse(&mut head) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return,
            // tungstenite refuses the frame and reads nothing after it.
            Err(_) => (FrameHeader::default(), u64::MAX),
        };
        let code = &self.head[usize::try_from(head.position()).unwrap_or(LONGEST)..self.len];
        let is_close = header.opcode == OpCode::Control(Control::Close);
        let has_code = is_close && (2..=125).contains(&payload);
        if has_code && code.len() < 2 {
            return;
        }
        if let (&[high, low], Some(mask)) = (code, header.mask)
            && u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]) == BAD_GATEWAY
        {
            *byte ^= DIFFERENCE;
            self.replaced = true;
        }
        // tungstenite reads nothing after a close frame. The code of a second close frame must not count for the first.
        self.payload = if is_close { u64::MAX } else { payload - code.len() as u64 };
        self.len = 0;
    }

    /// Restores the code in a close frame that tungstenite has read, and in its reply if it has written one.
    pub(crate) fn restore(&self, frame: &mut CloseFrame, reply: &mut [u8]) {
        if !self.replaced {
            return;
        }
        frame.code = BAD_GATEWAY.into();
        // A header of two bytes, the code, and the reason of the client.
        if reply.len() == 4 + frame.reason.len() {
            reply[2..4].copy_from_slice(&BAD_GATEWAY.to_be_bytes());
        }
    }
}
