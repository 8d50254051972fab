//! URIs of data, models and outputs: the patterns that the schema checks them by, and the parsed type that everything else
//! works with.

use std::fmt;
use std::str::FromStr;

/// Longest URI, in bytes.
pub const MAX_BYTES: usize = 2048;

/// What can be read: [`WRITABLE`] and `https`. A path has no segment `..`, so that it can't leave its volume or bucket.
pub(crate) const READABLE: &str = r"^(file://|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?|(s3|gs|az)://[A-Za-z0-9][-A-Za-z0-9_.]*|https://[A-Za-z0-9][-A-Za-z0-9.]*(:[0-9]{1,5})?)(/([^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*|\.[^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*|\.\.[^/\x00-\x1f\x7f]+))*/?$";
/// What can be written. A path has no segment `..`.
pub(crate) const WRITABLE: &str = r"^(file://|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?|(s3|gs|az)://[A-Za-z0-9][-A-Za-z0-9_.]*)(/([^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*|\.[^/.\x00-\x1f\x7f][^/\x00-\x1f\x7f]*|\.\.[^/\x00-\x1f\x7f]+))*/?$";

/// Kind of storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A folder or file of this machine or pod: `file:///path`.
    File,
    /// A persistent volume claim: `pvc://claim/path`.
    Pvc,
    /// Amazon S3 and what speaks its protocol: `s3://bucket/path`.
    S3,
    /// Google Cloud Storage: `gs://bucket/path`.
    Gs,
    /// Azure Blob Storage: `az://container/path`.
    Az,
    /// A web server, for reading: `https://host/path`.
    Https,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 6] = [Scheme::File, Scheme::Pvc, Scheme::S3, Scheme::Gs, Scheme::Az, Scheme::Https];

    /// The scheme as it stands before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::File => "file",
            Scheme::Pvc => "pvc",
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
            Scheme::Https => "https",
        }
    }
}

/// A URI that has been checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uri {
    scheme: Scheme,
    authority: String,
    path: String,
}

/// Why a text is not a URI of a storage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// There is no `://`.
    #[error(
        "{0:?} is not a URI: write file:///path, pvc://claim/path, s3://bucket/path, gs://bucket/path or az://container/path"
    )]
    NoScheme(String),
    /// The scheme is none that there is.
    #[error("{uri:?} has the unknown scheme {scheme:?}: there are file, pvc, s3, gs and az, and https to read from")]
    UnknownScheme {
        /// The text.
        uri: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// `file://` is followed by a name instead of a slash.
    #[error("{0:?} has no absolute path: write file:/// and the path, with three slashes")]
    RelativeFile(String),
    /// The name of the claim, bucket or host is missing or malformed.
    #[error("{uri:?} names no {what} after {scheme}://, or one with characters that it can't have")]
    Authority {
        /// The text.
        uri: String,
        /// The scheme.
        scheme: &'static str,
        /// Claim, bucket, container or host.
        what: &'static str,
    },
    /// A path segment is empty, `.` or `..`, or has a control character.
    #[error(
        "{uri:?} has the path segment {segment:?}: write the path without empty segments, . and .. and control characters"
    )]
    Segment {
        /// The text.
        uri: String,
        /// The segment.
        segment: String,
    },
    /// It is longer than [`MAX_BYTES`].
    #[error("the URI has {0} bytes; at most {MAX_BYTES} are possible")]
    TooLong(usize),
}

impl Uri {
    /// Parses and checks a URI.
    ///
    /// # Errors
    /// A [`UriError`] that says what is wrong and what would be right.
    pub fn parse(text: &str) -> Result<Uri, UriError> {
        if text.len() > MAX_BYTES {
            return Err(UriError::TooLong(text.len()));
        }
        let uri = || text.to_owned();
        let (name, rest) = text.split_once("://").ok_or_else(|| UriError::NoScheme(uri()))?;
        let scheme = Scheme::ALL
            .into_iter()
            .find(|scheme| scheme.name() == name)
            .ok_or_else(|| UriError::UnknownScheme { uri: uri(), scheme: name.to_owned() })?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_authority(scheme, authority, text)?;
        let trimmed = path.strip_suffix('/').unwrap_or(path);
        for segment in trimmed.split('/').skip(1) {
            if matches!(segment, "" | "." | "..") || segment.chars().any(|c| c.is_ascii_control()) {
                return Err(UriError::Segment { uri: uri(), segment: segment.to_owned() });
            }
        }
        Ok(Uri { scheme, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// A folder or file of this machine.
    ///
    /// # Errors
    /// [`UriError`] if the path is relative or has segments that a URI can't have.
    pub fn file(path: &str) -> Result<Uri, UriError> {
        Uri::parse(&format!("file://{path}"))
    }

    /// Kind of storage.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Claim, bucket, container or host (with port); empty for `file`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path with its leading slash, as it was written; empty if there is none.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The claim of a `pvc` URI.
    pub fn claim(&self) -> Option<&str> {
        (self.scheme == Scheme::Pvc).then_some(self.authority.as_str())
    }

    /// The path of a `file` URI on this machine.
    pub fn local_path(&self) -> Option<&str> {
        (self.scheme == Scheme::File).then_some(self.path.as_str())
    }

    /// Whether results can be written there.
    pub fn is_writable(&self) -> bool {
        self.scheme != Scheme::Https
    }

    /// What is at `name` below this URI; `name` is a relative path.
    ///
    /// # Errors
    /// [`UriError`] if `name` has segments that a URI can't have.
    pub fn join(&self, name: &str) -> Result<Uri, UriError> {
        Uri::parse(&format!("{}/{name}", self.to_string().trim_end_matches('/')))
    }
}

fn check_authority(scheme: Scheme, authority: &str, text: &str) -> Result<(), UriError> {
    let what = match scheme {
        Scheme::File if authority.is_empty() => return Ok(()),
        Scheme::File => return Err(UriError::RelativeFile(text.to_owned())),
        Scheme::Pvc => "claim",
        Scheme::S3 | Scheme::Gs => "bucket",
        Scheme::Az => "container",
        Scheme::Https => "host",
    };
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) if scheme == Scheme::Https => (host, Some(port)),
        _ => (authority, None),
    };
    let alphanumeric = |c: char| c.is_ascii_alphanumeric() && (scheme != Scheme::Pvc || !c.is_ascii_uppercase());
    let inner = |c: char| {
        alphanumeric(c) || c == '-' || c == '.' || (c == '_' && !matches!(scheme, Scheme::Pvc | Scheme::Https))
    };
    let fits = host.starts_with(alphanumeric)
        && host.chars().all(inner)
        && (scheme != Scheme::Pvc || host.ends_with(alphanumeric))
        && port.is_none_or(|port| (1..=5).contains(&port.len()) && port.chars().all(|c| c.is_ascii_digit()));
    if fits { Ok(()) } else { Err(UriError::Authority { uri: text.to_owned(), scheme: scheme.name(), what }) }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Uri, UriError> {
        Uri::parse(text)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.name(), self.authority, self.path)
    }
}
