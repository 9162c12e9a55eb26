//! Sockets of this machine (`AF_UNIX`) that only their owner can open.
//!
//! A socket is bound in a directory of mode 0700, gets its own mode 0600 there, and is then moved to where it belongs. So there
//! is no moment at which somebody else could open it, and one that a dead process left is replaced in the same step. A path
//! that is too long for `sun_path` (107 octets) is reached by the descriptor of its directory, through `/proc/self/fd`.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest path that a socket can have.
const LONGEST: usize = 107;

/// Listens on the socket of this name in a directory, in place of whatever is there. The caller has made sure that no other
/// process serves it.
///
/// # Errors
/// When the system refuses.
pub fn listen(directory: &Path, name: &str) -> io::Result<UnixListener> {
    let private = directory.join(format!(".{name}.new"));
    match fs::remove_dir_all(&private) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&private)?;
    let bound = bind(&private).and_then(|listener| {
        fs::set_permissions(private.join("s"), Permissions::from_mode(0o600))?;
        fs::rename(private.join("s"), directory.join(name))?;
        Ok(listener)
    });
    let removed = fs::remove_dir_all(&private);
    let listener = bound?;
    removed?;
    Ok(listener)
}

fn bind(directory: &Path) -> io::Result<UnixListener> {
    let (path, _held) = reachable(directory, "s")?;
    UnixListener::bind(path)
}

/// Connects to the socket of this name in a directory.
///
/// # Errors
/// When there is none, nobody serves it, or it is not ours.
pub fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let (path, _held) = reachable(directory, name)?;
    UnixStream::connect(path)
}

/// A path that is short enough, and what must be held while it is used.
fn reachable(directory: &Path, name: &str) -> io::Result<(PathBuf, Option<File>)> {
    let path = directory.join(name);
    if path.as_os_str().len() <= LONGEST {
        return Ok((path, None));
    }
    let held = File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", held.as_raw_fd()));
    Ok((path, Some(held)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn talk(directory: &Path) {
        let listener = listen(directory, "x.sock").unwrap();
        assert_eq!(fs::metadata(directory.join("x.sock")).unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = connect(directory, "x.sock").unwrap();
        client.write_all(b"hello").unwrap();
        drop(client);
        let mut said = String::new();
        listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
    }

    #[test]
    fn a_socket_is_private_and_takes_the_place_of_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        talk(directory.path());
        assert!(connect(directory.path(), "x.sock").is_err(), "nobody serves it, but the file is there");
        talk(directory.path());
        fs::remove_file(directory.path().join("x.sock")).unwrap();
        fs::write(directory.path().join("x.sock"), "a file").unwrap();
        fs::create_dir(directory.path().join(".x.sock.new")).unwrap();
        talk(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_path_may_be_long() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&long).unwrap();
        talk(&long);
    }
}
