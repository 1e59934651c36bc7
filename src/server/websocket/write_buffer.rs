//! `WriteBuffer`: the frames that a socket has to write, as slices of the shared bytes.

use std::collections::VecDeque;
use std::io::IoSlice;

use crate::drops;
use crate::server::counters::ClientDropReason;
use crate::server::websocket::frame::Frame;

/// Maximum number of frames in one write, each with a header and a payload. More would save little.
pub(crate) const FRAMES_AT_ONCE: usize = 32;

/// Maximum number of slices in one write: two for each frame, and one for the control frames.
pub(crate) const SLICES: usize = 1 + 2 * FRAMES_AT_ONCE;

/// The frames that wait to be written. When dropped, the frames that are not completely written count as dropped.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are written.
    written: usize,
    /// Control frames of tungstenite, to be written before the next data frame begins.
    pub(crate) control: Vec<u8>,
}

impl WriteBuffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.control.is_empty()
    }

    /// Appends a data frame.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.frames.push_back(frame);
    }

    /// Discards the frames that are not partly written. Returns their number.
    pub(crate) fn discard_frames(&mut self) -> usize {
        let before = self.frames.len();
        // A partly written frame has to be completed.
        self.frames.truncate(usize::from(self.written > 0));
        before - self.frames.len()
    }

    /// Returns the unwritten bytes of a partly written frame, which come before anything else.
    pub(crate) fn partial_frame_len(&self) -> usize {
        let first = self.frames.front().filter(|_| self.written > 0);
        first.map_or(0, |frame| frame.size() - self.written)
    }

    /// Fills `slices` with the next bytes, in order. Returns the number of slices.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut count = 0;
        let mut push = |bytes: &'a [u8]| {
            if !bytes.is_empty() {
                slices[count] = IoSlice::new(bytes);
                count += 1;
            }
        };
        if self.written == 0 {
            push(&self.control);
        }
        // The rest of a partly written frame comes first, and control frames right after it.
        let fits = if self.written > 0 && !self.control.is_empty() { 1 } else { FRAMES_AT_ONCE };
        let mut written = self.written;
        for frame in self.frames.iter().take(fits) {
            let (head, payload) = (frame.head(), frame.payload());
            push(&head[written.min(head.len())..]);
            push(&payload[written.saturating_sub(head.len())..]);
            written = 0;
        }
        count
    }

    /// Removes the written bytes.
    pub(crate) fn advance(&mut self, mut written: usize) {
        if self.written == 0 && !self.control.is_empty() {
            let control = written.min(self.control.len());
            self.control.drain(..control);
            written -= control;
            if self.control.is_empty() {
                // Most sockets do not need the buffer again soon.
                self.control = Vec::new();
            }
        }
        while written > 0
            && let Some(first) = self.frames.front()
        {
            let rest = first.size() - self.written;
            if written < rest {
                self.written += written;
                return;
            }
            written -= rest;
            self.written = 0;
            self.frames.pop_front();
        }
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        drops::count(ClientDropReason::ClientGone, self.frames.len());
    }
}
