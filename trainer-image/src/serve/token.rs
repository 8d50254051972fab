//! The bearer token, from a file that a Secret is mounted as. It is read again when it changes, so that a token can be
//! replaced without a restart.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crds::contract::Cause;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::fault::Fault;

/// Who may ask.
pub(super) struct Token {
    path: PathBuf,
    known: Mutex<Known>,
}

/// A token by its digest: of equal length whatever the token's, so that a comparison tells nothing by its time.
struct Known {
    digest: [u8; 32],
    stamp: Stamp,
}

/// By what a file that has changed is told: a mounted Secret is another file after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { inode: metadata.ino(), modified: (metadata.mtime(), metadata.mtime_nsec()), size: metadata.size() }
    }
}

impl Token {
    /// Reads the file.
    ///
    /// # Errors
    /// It can't be read, or holds no token.
    pub(super) fn read(path: &Path) -> Result<Token, Fault> {
        let known = read(path)?;
        Ok(Token { path: path.to_owned(), known: Mutex::new(known) })
    }

    /// Whether the value of an `Authorization` header bears the token.
    pub(super) fn allows(&self, header: Option<&[u8]>) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata));
        // While the file is being replaced, the token that is known counts.
        if stamp.is_ok_and(|stamp| stamp != known.stamp) {
            match read(&self.path) {
                Ok(new) => {
                    tracing::info!("the token of {} was replaced", self.path.display());
                    *known = new;
                }
                Err(fault) => tracing::warn!("the token that was known stays: {fault}"),
            }
        }
        let Some(token) = header.and_then(bearer) else { return false };
        let given: [u8; 32] = Sha256::digest(token).into();
        given.ct_eq(&known.digest).into()
    }
}

fn read(path: &Path) -> Result<Known, Fault> {
    let failed = |error| Fault::io(format_args!("read the token from {}", path.display()), error);
    // The stamp before the content: what changes in between is read again.
    let stamp = Stamp::of(&fs::metadata(path).map_err(failed)?);
    let content = fs::read(path).map_err(failed)?;
    let token = content.trim_ascii();
    if token.is_empty() {
        return Err(Fault::new(Cause::BadSpec, format!("{} holds no token: it is empty", path.display())));
    }
    Ok(Known { digest: Sha256::digest(token).into(), stamp })
}

/// The token of a header's value; the scheme's case doesn't matter (RFC 9110, 11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_of_the_file_is_let_in_also_after_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let token = Token::read(&path).unwrap();
        let table: [(Option<&[u8]>, bool); 8] = [
            (Some(b"Bearer first"), true),
            (Some(b"bearer first"), true),
            (Some(b"Bearer firs"), false),
            (Some(b"Bearer first2"), false),
            (Some(b"Basic first"), false),
            (Some(b"Bearer "), false),
            (Some(b""), false),
            (None, false),
        ];
        for (header, allowed) in table {
            assert_eq!(token.allows(header), allowed, "{header:?}");
        }
        // As the kubelet does it: a new file takes the place of the old one.
        fs::write(folder.path().join("new"), "second").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!((token.allows(Some(b"Bearer first")), token.allows(Some(b"Bearer second"))), (false, true));
        fs::write(&path, " \n").unwrap();
        assert!(token.allows(Some(b"Bearer second")), "an empty file is no token");
        fs::remove_file(&path).unwrap();
        assert!(token.allows(Some(b"Bearer second")), "nor is none");
        assert_eq!(Token::read(&path).err().map(|fault| fault.cause()), Some(Cause::DataMissing));
    }
}
