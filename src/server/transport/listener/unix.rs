//! Unix sockets and their files.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::server::transport::listener::{Address, Listener, Socket};

impl Listener {
    /// Listens on a unix socket. A socket at `path` without a listener is replaced; any other file at `path` is an
    /// error. The permissions of the directory and the umask decide who may connect.
    ///
    /// # Errors
    ///
    /// The error of the operating system, for example that the socket is in use.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        remove_if_abandoned(path)?;
        let listener = UnixListener::bind(path)?;
        let file = SocketFile::new(path)?;
        Ok(Self { socket: Socket::Unix { listener, _file: Some(file) }, address: Address::Unix(path.to_owned()) })
    }
}

fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    match UnixStream::connect(path) {
        Err(error) if is_socket && error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// The file of a unix socket. It is removed on drop, unless another process has replaced it with its own.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), inode: inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            // The next process replaces a file that stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}
