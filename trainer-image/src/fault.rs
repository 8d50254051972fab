//! How every path of the trainer ends when it can't go on: a cause from the contract, a sentence, a hint, and the
//! sources. Writes the pod's termination message and gives the exit code.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use crds::contract::{self, Cause, TerminationMessage};

use crate::storage::StorageError;
use crate::torch::TorchError;

type Source = Box<dyn Error + Send + Sync>;

/// Why the trainer ends. `Display` is the message and the texts of the sources that it does not yet contain.
#[derive(Debug)]
pub struct Fault {
    cause: Cause,
    message: String,
    hint: String,
    step: Option<u64>,
    rank: Option<u32>,
    source: Option<Source>,
}

impl Fault {
    /// A fault with a message that says what was wrong and where.
    pub fn new(cause: Cause, message: impl Into<String>) -> Fault {
        Fault { cause, message: message.into(), hint: String::new(), step: None, rank: None, source: None }
    }

    /// A fault of reading or writing; `doing` completes "can't ...": `read /data/a.jpg`.
    pub fn io(doing: impl fmt::Display, error: io::Error) -> Fault {
        let error = match error.downcast::<StorageError>() {
            Ok(storage) => return storage.into(),
            Err(error) => error,
        };
        let cause = cause_of_io(error.kind());
        let fault = Fault::new(cause, format!("can't {doing}")).source(error);
        match cause {
            Cause::DataMissing => fault.hint("check the path, and that the volume that holds it is mounted"),
            Cause::Permission => {
                fault.hint("the trainer runs as a plain user: make the path readable (and outputs writable) for it")
            }
            Cause::Storage => fault.hint("look for a full disk or a lost volume"),
            _ => fault,
        }
    }

    /// What a caught panic says. One of tch has the cause of what libtorch threw, where that is known.
    pub fn from_panic(payload: &(dyn Any + Send)) -> Fault {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a text".to_owned());
        if let Some(error) = TorchError::from_panic(&text) {
            return error.into();
        }
        Fault::new(Cause::Bug, format!("the trainer panicked: {text}"))
            .hint("this is a defect of the trainer: please report it with the log")
    }

    /// Adds more of what was wrong.
    pub(crate) fn and(mut self, more: &str) -> Fault {
        self.message = format!("{}; {more}", self.message);
        self
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = hint.into();
        self
    }

    /// Adds the error that led here.
    pub fn source(mut self, source: impl Into<Source>) -> Fault {
        self.source = Some(source.into());
        self
    }

    /// Adds the number of optimizer steps that the job had done.
    pub fn at_step(mut self, step: u64) -> Fault {
        self.step = Some(step);
        self
    }

    /// Adds the rank it happened in. Without it, [`Fault::end`] takes the rank of this process.
    pub fn at_rank(mut self, rank: u32) -> Fault {
        self.rank = Some(rank);
        self
    }

    /// Why it ended.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// What to do about it; may be empty.
    pub fn advice(&self) -> &str {
        &self.hint
    }

    /// The exit code of the cause.
    pub fn exit_code(&self) -> i32 {
        self.cause.exit_code()
    }

    /// The contract's form, without a node.
    pub fn to_termination(&self) -> TerminationMessage {
        TerminationMessage {
            contract_version: contract::CONTRACT_VERSION,
            cause: self.cause,
            rank: self.rank,
            node: None,
            step: self.step,
            message: self.to_string(),
            hint: self.hint.clone(),
            result: None,
        }
    }

    /// The end of a process: says it on stderr, writes the termination message, and gives the exit code.
    pub fn end(&self) -> i32 {
        // A closed stderr must not hide the exit code.
        let _ = writeln!(io::stderr(), "{}", self.for_people());
        let mut message = self.to_termination();
        message.rank = message.rank.or_else(|| number_from(contract::env::RANK));
        end_with(&message);
        self.exit_code()
    }

    /// The message on one line and the hint, if there is one, on the next.
    pub fn for_people(&self) -> String {
        let kind = if self.cause == Cause::Preempted { "stopped" } else { "error" };
        match self.hint.as_str() {
            "" => format!("{kind}: {self}"),
            hint => format!("{kind}: {self}\n  hint: {hint}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.message.clone();
        let mut next = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = next {
            // Many errors repeat their source in their own text: say each thing once.
            let more = error.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            next = error.source();
        }
        f.write_str(&text)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &dyn Error)
    }
}

/// Turns any error into a fault where it is returned.
pub trait OrFault<T> {
    /// Gives the error a cause and a message; the error becomes the source.
    ///
    /// # Errors
    /// The fault, if `self` is an error.
    fn or_fault<M: Into<String>>(self, cause: Cause, message: impl FnOnce() -> M) -> Result<T, Fault>;
}

impl<T, E: Into<Source>> OrFault<T> for Result<T, E> {
    fn or_fault<M: Into<String>>(self, cause: Cause, message: impl FnOnce() -> M) -> Result<T, Fault> {
        self.map_err(|error| Fault::new(cause, message()).source(error))
    }
}

fn cause_of_io(kind: ErrorKind) -> Cause {
    match kind {
        ErrorKind::NotFound => Cause::DataMissing,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Cause::Permission,
        ErrorKind::OutOfMemory => Cause::HostMemory,
        ErrorKind::InvalidData
        | ErrorKind::UnexpectedEof
        | ErrorKind::InvalidInput
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory => Cause::BadData,
        _ => Cause::Storage,
    }
}

/// Runs the trainer's work; a panic in it becomes a fault, mostly a [`Cause::Bug`], instead of Rust's exit code 101.
///
/// # Errors
/// What `work` gives, or the panic.
pub fn guard<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(Fault::from_panic(payload.as_ref())))
}

/// Writes the termination message of this process to where its pod or its launcher wants it, if anywhere. The node's
/// name is added from the environment. A failure to write is told on stderr and is no failure of the job.
pub fn end_with(message: &TerminationMessage) {
    let Some(path) = termination_log() else { return };
    let mut message = message.clone();
    message.node =
        message.node.or_else(|| std::env::var(contract::env::NODE_NAME).ok().filter(|name| !name.is_empty()));
    if let Err(error) = write_termination(&path, &message) {
        let _ = writeln!(io::stderr(), "warning: can't write the termination message to {}: {error}", path.display());
    }
}

/// The file that takes the termination message: what the environment says, else Kubernetes' own if it exists.
pub fn termination_log() -> Option<PathBuf> {
    match std::env::var_os(contract::env::TERMINATION_LOG) {
        Some(path) if !path.is_empty() => Some(PathBuf::from(path)),
        _ => Some(PathBuf::from(contract::TERMINATION_LOG)).filter(|path| path.exists()),
    }
}

/// Writes a message in place: in a pod the file is a mount of its own, which can't be renamed over.
///
/// # Errors
/// Those of the file system.
pub fn write_termination(path: &Path, message: &TerminationMessage) -> io::Result<()> {
    std::fs::write(path, encode(message))
}

/// A message as JSON of at most [`contract::TERMINATION_MESSAGE_BYTES`]. The message's end is cut first, then the
/// hint's, then what can be read elsewhere (the result is in the model folder too) is left out.
pub fn encode(message: &TerminationMessage) -> Vec<u8> {
    let mut message = message.clone();
    for field in [Field::Message, Field::Hint] {
        if json(&message).len() > contract::TERMINATION_MESSAGE_BYTES {
            cut(&mut message, field);
        }
    }
    if json(&message).len() > contract::TERMINATION_MESSAGE_BYTES {
        message.result = None;
        message.node = None;
    }
    json(&message)
}

#[derive(Clone, Copy)]
enum Field {
    Message,
    Hint,
}

/// Keeps the longest beginning of a field with which the whole fits, or none of it.
fn cut(message: &mut TerminationMessage, field: Field) {
    let text = match field {
        Field::Message => std::mem::take(&mut message.message),
        Field::Hint => std::mem::take(&mut message.hint),
    };
    let mut with = |length: usize| {
        let part = if length == 0 { String::new() } else { format!("{}…", &text[..length]) };
        match field {
            Field::Message => message.message = part,
            Field::Hint => message.hint = part,
        }
        json(message).len()
    };
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    // JSON escapes characters to up to six bytes each, so the length is searched and not computed.
    let fitting = ends.partition_point(|&end| with(end) <= contract::TERMINATION_MESSAGE_BYTES);
    with(ends[..fitting].last().copied().unwrap_or(0));
}

fn json(message: &TerminationMessage) -> Vec<u8> {
    serde_json::to_vec(message).expect("a termination message has only strings and numbers")
}

fn number_from(variable: &str) -> Option<u32> {
    std::env::var(variable).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> TerminationMessage {
        serde_json::from_slice(bytes).expect("valid JSON")
    }

    #[test]
    fn a_fault_says_each_thing_once() {
        let inner = io::Error::new(ErrorKind::NotFound, "no such file");
        let outer = Fault::new(Cause::DataMissing, "can't read a.csv: no such file").source(inner);
        assert_eq!(outer.to_string(), "can't read a.csv: no such file");
        let fault = Fault::io("read a.csv", io::Error::new(ErrorKind::NotFound, "gone")).at_step(7);
        assert_eq!((fault.to_string().as_str(), fault.exit_code()), ("can't read a.csv: gone", 66));
        assert_eq!(
            fault.to_termination(),
            TerminationMessage {
                contract_version: contract::CONTRACT_VERSION,
                cause: Cause::DataMissing,
                rank: None,
                node: None,
                step: Some(7),
                message: "can't read a.csv: gone".to_owned(),
                hint: "check the path, and that the volume that holds it is mounted".to_owned(),
                result: None,
            }
        );
    }

    #[test]
    fn a_message_of_any_size_and_script_fits_and_is_valid() {
        let samples = ["a", "\u{1}", "\"", "é", "数", "🦀", "\\", "\n"];
        for sample in samples {
            for count in [10, 650, 1_300, 3_900, 4_096, 100_000] {
                let fault = Fault::new(Cause::BadData, sample.repeat(count)).hint(sample.repeat(count / 3));
                let bytes = encode(&fault.to_termination());
                assert!(bytes.len() <= contract::TERMINATION_MESSAGE_BYTES, "{sample:?} x {count}: {}", bytes.len());
                let back = read(&bytes);
                assert!(fault.message.starts_with(back.message.trim_end_matches('…')), "{sample:?} x {count}");
            }
        }
    }

    #[test]
    fn a_long_message_uses_the_room_there_is() {
        let fault = Fault::new(Cause::Bug, "x".repeat(10_000)).hint("short");
        let bytes = encode(&fault.to_termination());
        assert_eq!(bytes.len(), contract::TERMINATION_MESSAGE_BYTES);
        let back = read(&bytes);
        assert_eq!((back.hint.as_str(), back.message.ends_with("x…")), ("short", true));
    }

    #[test]
    fn an_overlong_result_is_left_out_and_the_rest_stays() {
        let mut message = Fault::new(Cause::Completed, "done").to_termination();
        message.result = Some(contract::JobResult { uri: "u".repeat(5_000), ..Default::default() });
        let back = read(&encode(&message));
        assert_eq!((back.cause, back.result), (Cause::Completed, None));
    }

    #[test]
    fn a_short_message_overwrites_a_longer_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["a rather long text of the first", "short"] {
            write_termination(file.path(), &Fault::new(Cause::Bug, text).to_termination()).unwrap();
            assert_eq!(read(&std::fs::read(file.path()).unwrap()).message, text);
        }
    }

    #[test]
    fn a_panic_is_a_bug_with_its_text() {
        let fault = guard::<()>(|| panic!("index {} of 3", 4)).unwrap_err();
        assert_eq!((fault.cause(), fault.exit_code()), (Cause::Bug, 70));
        assert_eq!(fault.to_string(), "the trainer panicked: index 4 of 3");
    }

    #[test]
    fn a_panic_of_tch_has_the_cause_of_what_libtorch_threw() {
        // More than a process can address.
        let fault = guard(|| Ok(tch::Tensor::zeros([1 << 48], tch::kind::FLOAT_CPU))).unwrap_err();
        assert_eq!((fault.cause(), fault.exit_code()), (Cause::HostMemory, 71), "{fault}");
        assert!(fault.to_string().starts_with("host memory ran out: "), "{fault}");
    }
}
