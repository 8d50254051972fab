//! What can be wrong with data, said so that a person can act on it: what, in which file and line, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use crds::contract::Cause;
use thiserror::Error;

use crate::storage::StorageError;

/// What to do where more images are broken than [`crds::data::Data::unreadable_fraction`] allows.
pub(crate) const TOO_MANY_BROKEN: &str =
    "replace these files, or remove them from the data, or raise data.unreadableFraction";

/// What a system says where a mounted file system, the way to it, or this machine fails, and not the file that is read.
const OF_THE_WAY: [i32; 22] = [
    libc::EIO,
    libc::ESTALE,
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EAGAIN,
    libc::EBUSY,
    libc::ETIMEDOUT,
    libc::ENOTCONN,
    libc::ECONNRESET,
    libc::ECONNABORTED,
    libc::ECONNREFUSED,
    libc::EPIPE,
    libc::ESHUTDOWN,
    libc::EHOSTDOWN,
    libc::EHOSTUNREACH,
    libc::ENETDOWN,
    libc::ENETUNREACH,
    libc::EREMOTEIO,
    libc::ENOLINK,
    libc::ENOMEM,
    libc::EMFILE,
    libc::ENFILE,
];

/// A data set, or one file of it, can't be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// Nothing is at this path.
    #[error("{}: no such file or folder", path.display())]
    Missing {
        /// What was to be read.
        path: PathBuf,
    },
    /// The process may not read this path.
    #[error("{}: no permission to read it", path.display())]
    Permission {
        /// What was to be read.
        path: PathBuf,
    },
    /// Reading failed in another way.
    #[error("{}: reading failed: {source}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The store that holds it refused or failed.
    #[error(transparent)]
    Storage(StorageError),
    /// The source is not laid out in the format asked for.
    #[error("{}: {reason}", path.display())]
    Layout {
        /// The source.
        path: PathBuf,
        /// What was expected and what is there.
        reason: String,
    },
    /// A classifier needs two classes at least.
    #[error("{}: a classifier needs two classes or more, and here is {there}", path.display())]
    FewClasses {
        /// The source.
        path: PathBuf,
        /// What is there: `none`, or `only` and the class.
        there: String,
    },
    /// A table without a row.
    #[error("{}: {reason}", path.display())]
    NoRows {
        /// The table.
        path: PathBuf,
        /// Whether there is anything in it.
        reason: &'static str,
    },
    /// A table without a column that is read.
    #[error("{place}: {reason}")]
    NoColumn {
        /// The table, and the line that names its columns.
        place: String,
        /// Which column, and which ones there are.
        reason: String,
    },
    /// No image in the whole source.
    #[error("{}: holds no image", path.display())]
    Empty {
        /// The source.
        path: PathBuf,
    },
    /// A class folder without an image.
    #[error("{}: the class {class:?} has no image", path.display())]
    EmptyClass {
        /// The folder.
        path: PathBuf,
        /// Its name.
        class: String,
    },
    /// A folder that contains itself by a symbolic link.
    #[error("{}: a symbolic link leads back to a folder above it", path.display())]
    LinkLoop {
        /// The link.
        path: PathBuf,
    },
    /// A line of a table is wrong.
    #[error("{}, line {line}: {reason}", path.display())]
    Table {
        /// The table.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A label that the model doesn't know.
    #[error("{place}: the class {class:?} is not one of the model's {known} classes")]
    UnknownClass {
        /// The folder, or the table and line.
        place: String,
        /// The class found.
        class: String,
        /// Number of classes of the model.
        known: usize,
    },
    /// An image can't be used.
    #[error("{}: {fault}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: ImageFault,
    },
    /// More images are broken than allowed.
    #[error("{found} images can't be used, {allowed} are allowed; the last one is {last}")]
    TooManyBroken {
        /// Broken images met so far.
        found: usize,
        /// How many may be left out.
        allowed: usize,
        /// The error of the last one.
        last: Box<DataError>,
    },
    /// Threads could not be started.
    #[error("can't start {threads} threads that load images: {source}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system says.
        source: io::Error,
    },
}

/// Why an image can't be used. The file's name is added by whoever knows it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImageFault {
    /// No byte in it.
    #[error("the file is empty (0 bytes)")]
    Empty,
    /// The content is none of the formats that are read.
    #[error("not a JPEG, PNG, BMP, GIF, TIFF or WebP image")]
    Unknown,
    /// The data ends too early.
    #[error("the image is cut off: its data ends too early")]
    Truncated,
    /// The data contradicts its format.
    #[error("the image is damaged: {0}")]
    Corrupt(String),
    /// A variant of a known format that is not read.
    #[error("this kind of image is not read: {0}")]
    Unsupported(String),
    /// More pixels than allowed: refused before memory is taken for them.
    #[error("{width} x {height} pixels are more than the {limit} allowed")]
    TooManyPixels {
        /// Declared width.
        width: u32,
        /// Declared height.
        height: u32,
        /// Pixels allowed.
        limit: u64,
    },
    /// More bytes than allowed.
    #[error("the file has more than the {limit} bytes allowed")]
    TooManyBytes {
        /// Bytes allowed.
        limit: u64,
    },
    /// Not a regular file: a pipe or a device would never end.
    #[error("not a regular file")]
    NotAFile,
    /// The decoder failed by a defect of its own.
    #[error("the decoder gave up on it (a defect of the decoder)")]
    Panicked,
}

impl DataError {
    /// The error of reading `path`.
    pub fn from_io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        let source = match source.downcast() {
            Ok(storage) => return Self::Storage(storage),
            Err(source) => source,
        };
        // What the system says for a link that leads to itself.
        if source.raw_os_error() == Some(libc::ELOOP) {
            return Self::LinkLoop { path };
        }
        match source.kind() {
            // Under a name that is too long nothing can be.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
                Self::Missing { path }
            }
            io::ErrorKind::PermissionDenied => Self::Permission { path },
            _ => Self::Read { path, source },
        }
    }

    /// The error of using the image at `path`.
    pub fn image(path: impl Into<PathBuf>, fault: ImageFault) -> Self {
        Self::Image { path: path.into(), fault }
    }

    /// The error of a file whose text ends before it has a line.
    pub(super) fn empty_file(path: &Path) -> Self {
        Self::NoRows { path: path.to_owned(), reason: "the file is empty" }
    }

    pub(super) fn table(path: &Path, line: u64, reason: impl Into<String>) -> Self {
        Self::Table { path: path.to_owned(), line, reason: reason.into() }
    }

    /// Whether it says nothing of the data: the way to it failed, and another try may find it whole.
    pub fn is_of_the_way(&self) -> bool {
        match self {
            Self::Storage(error) => error.cause() != Cause::DataMissing,
            Self::Read { source, .. } => source.raw_os_error().is_some_and(|code| OF_THE_WAY.contains(&code)),
            _ => false,
        }
    }

    /// A name of the kind of error, from a small fixed set, for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Permission { .. } => "permission",
            Self::Read { .. } => "read",
            Self::Storage(error) => error.category(),
            Self::Layout { .. } => "layout",
            Self::FewClasses { .. } => "few-classes",
            Self::NoColumn { .. } => "no-column",
            Self::Empty { .. } | Self::NoRows { .. } => "empty",
            Self::EmptyClass { .. } => "empty-class",
            Self::LinkLoop { .. } => "link-loop",
            Self::Table { .. } => "table",
            Self::UnknownClass { .. } => "unknown-class",
            Self::Image { .. } => "image",
            Self::TooManyBroken { .. } => "too-many-broken",
            Self::Threads { .. } => "threads",
        }
    }

    /// The cause, in the contract's words, if a process ends by this error.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Missing { .. } => Cause::DataMissing,
            Self::Permission { .. } => Cause::Permission,
            Self::Read { .. } => Cause::Storage,
            Self::Storage(error) => error.cause(),
            Self::Threads { .. } => Cause::HostMemory,
            Self::Layout { .. }
            | Self::FewClasses { .. }
            | Self::NoRows { .. }
            | Self::NoColumn { .. }
            | Self::Empty { .. }
            | Self::EmptyClass { .. }
            | Self::LinkLoop { .. }
            | Self::Table { .. }
            | Self::UnknownClass { .. }
            | Self::Image { .. }
            | Self::TooManyBroken { .. } => Cause::BadData,
        }
    }

    /// What to do about it: a sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "check data.uri, and that the volume is mounted where it says",
            Self::Permission { .. } => {
                "make it readable for the user that the process runs as (in a pod: fsGroup, or the file's mode)"
            }
            Self::Read { .. } => "the storage failed, not the data: try again, and look at the volume",
            Self::Storage(error) => error.hint(),
            Self::Layout { .. } => {
                "lay the data out as FOLDER/CLASS/IMAGE, or name a table and its format in data.format"
            }
            Self::FewClasses { .. } => "add images of a second class",
            Self::NoRows { .. } => "give it a line for each image, or correct data.uri",
            Self::NoColumn { .. } => "name the table's columns in data.imageColumn and data.labelColumn",
            Self::Empty { .. } => {
                "put .jpg, .jpeg, .png, .bmp, .gif, .tif, .tiff or .webp files there, or correct data.uri"
            }
            Self::EmptyClass { .. } => "add images to the class, or remove its folder",
            Self::LinkLoop { .. } => "remove the link",
            Self::Table { .. } => "correct the line",
            Self::UnknownClass { .. } => "correct the label, or use a model that was trained on this class",
            Self::Image { .. } => "replace the file, or remove it from the data",
            Self::TooManyBroken { .. } => TOO_MANY_BROKEN,
            Self::Threads { .. } => "raise the limits of memory and of processes, or lower the number of threads",
        }
    }
}
