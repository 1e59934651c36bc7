//! `WakeFd`: the file descriptor by which other threads wake an event loop.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
#[cfg(not(target_os = "linux"))]
use std::os::unix::net::UnixStream;

/// A file descriptor that becomes readable when [`wake`](Self::wake) is called: an event counter on Linux, a pair of
/// sockets elsewhere.
pub(super) struct WakeFd {
    #[cfg(target_os = "linux")]
    counter: OwnedFd,
    #[cfg(not(target_os = "linux"))]
    ends: (UnixStream, UnixStream),
}

#[cfg(target_os = "linux")]
impl WakeFd {
    pub(super) fn new() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self { counter: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)? })
    }

    /// Makes the descriptor readable.
    pub(super) fn wake(&self) {
        // It can fail only while the counter is at its maximum, and then the descriptor is readable.
        let _ = rustix::io::write(&self.counter, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable until the next wake.
    pub(super) fn clear(&self) {
        // It fails if there was no wake.
        let _ = rustix::io::read(&self.counter, &mut [0u8; 8]);
    }

    pub(super) fn fd(&self) -> RawFd {
        self.counter.as_raw_fd()
    }
}

#[cfg(not(target_os = "linux"))]
impl WakeFd {
    pub(super) fn new() -> io::Result<Self> {
        let ends = UnixStream::pair()?;
        ends.0.set_nonblocking(true)?;
        ends.1.set_nonblocking(true)?;
        Ok(Self { ends })
    }

    /// Makes the descriptor readable.
    pub(super) fn wake(&self) {
        // It can fail only while the buffer is full, and then the descriptor is readable.
        let _ = io::Write::write(&mut &self.ends.1, &[1]);
    }

    /// Makes the descriptor unreadable until the next wake. The caller clears it once for each wake.
    pub(super) fn clear(&self) {
        // It fails if there was no wake.
        let _ = io::Read::read(&mut &self.ends.0, &mut [0; 64]);
    }

    pub(super) fn fd(&self) -> RawFd {
        self.ends.0.as_raw_fd()
    }
}
