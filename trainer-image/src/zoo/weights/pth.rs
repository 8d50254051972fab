//! Reads the tensors of files that `torch.save` wrote: a zip archive with a pickle and the tensors' bytes (since PyTorch
//! 1.6), or the pickles in a row that came before it. No code of the file is run: of what the pickle asks to be built,
//! tensors are made and all else is left.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read};

use tch::{Kind, Tensor};
use zip::ZipArchive;
use zip::result::ZipError;

use super::pickle::{Id, Node, Pickle, PickleError};

/// How the older format begins.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// Where training programs put the weights among what else they save, the more usual ones first.
const SECTIONS: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// Why a file gives no tensors.
#[derive(Debug, thiserror::Error)]
pub enum PthError {
    /// A damaged archive.
    #[error("it is a damaged zip archive: {0}")]
    Zip(#[from] ZipError),
    /// A part of the archive can't be read.
    #[error("it is a damaged zip archive: {0}")]
    Read(#[from] std::io::Error),
    /// No pickle, or an unusual one.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// It holds something else than a state dict.
    #[error("{0}")]
    Content(String),
    /// libtorch refused the bytes.
    #[error("libtorch could not take a tensor: {0}")]
    Torch(#[from] tch::TchError),
}

fn content<T>(text: impl Into<String>) -> Result<T, PthError> {
    Err(PthError::Content(text.into()))
}

/// The tensors of a zip archive of PyTorch's, by name.
pub(super) fn read_archive(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, PthError> {
    let mut archive = ZipArchive::new(Cursor::new(bytes))?;
    let Some(name) = archive.file_names().find(|name| name.ends_with("/data.pkl")).map(str::to_owned) else {
        return content("it is a zip archive, but not one of PyTorch's: it has no data.pkl");
    };
    let folder = &name[..name.len() - "data.pkl".len()];
    if archive.file_names().any(|name| name == format!("{folder}constants.pkl")) {
        return content("it is a TorchScript program, not a state dict: save model.state_dict()");
    }
    let order = format!("{folder}byteorder");
    if archive.file_names().any(|name| name == order) && part(&mut archive, &order)? != b"little" {
        return content("it was written by a big-endian machine");
    }
    let (pickle, _) = Pickle::read(&part(&mut archive, &name)?)?;
    let mut left = bytes.len();
    tensors(&pickle, |storage| {
        let bytes = part(&mut archive, &format!("{folder}data/{}", storage.key))?;
        // Thousands of them may say that they lie in the same place.
        let Some(rest) = left.checked_sub(bytes.len()) else { return content("its storages lie over each other") };
        left = rest;
        flat(&bytes, storage)
    })
}

fn part(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str) -> Result<Vec<u8>, PthError> {
    let mut bytes = Vec::new();
    archive.by_name(name)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The tensors of the older format, by name: pickles of a magic number, a version, facts of the machine, the content and the
/// keys of its storages; then each storage as the number of its elements and their bytes.
pub(super) fn read_legacy(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, PthError> {
    let mut at = 0;
    let mut next = || -> Result<Pickle, PthError> {
        let (pickle, length) = Pickle::read(&bytes[at..])?;
        at += length;
        Ok(pickle)
    };
    let magic = next()?;
    if magic.node(magic.root()) != &Node::Int(MAGIC) {
        return content("it is a pickle, but not one that torch.save wrote");
    }
    let (_version, _machine, pickle, keys) = (next()?, next()?, next()?, next()?);
    let order = keys.elements(keys.root()).unwrap_or_default();
    let order: Vec<&str> = order.iter().filter_map(|id| keys.text(*id)).collect();
    // How many bytes a storage has depends on its type, which the pickle says at its first use.
    let mut kinds = HashMap::new();
    for id in pickle.persistent() {
        let storage = Storage::of(&pickle, id)?;
        kinds.insert(storage.key.clone(), storage);
    }
    let mut found = HashMap::new();
    for key in order {
        let Some(storage) = kinds.get(key) else {
            return content(format!("it holds the storage {key}, which no tensor uses"));
        };
        let head = bytes.get(at..at + 8).ok_or(PickleError::Truncated)?;
        let count = u64::from_le_bytes(head.try_into().expect("8 bytes"));
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(storage.kind.elt_size_in_bytes()));
        let end = length.and_then(|length| (at + 8).checked_add(length)).ok_or(PickleError::Truncated)?;
        found.insert(key.to_owned(), flat(bytes.get(at + 8..end).ok_or(PickleError::Truncated)?, storage)?);
        at = end;
    }
    tensors(&pickle, |storage| match found.get(&storage.key) {
        Some(tensor) => Ok(tensor.shallow_clone()),
        None => content(format!("its storage {} is missing", storage.key)),
    })
}

/// A run of numbers that tensors are views of.
#[derive(Clone, Debug)]
struct Storage {
    key: String,
    kind: Kind,
}

impl Storage {
    /// From `("storage", type, key, device, count)`.
    fn of(pickle: &Pickle, id: Id) -> Result<Storage, PthError> {
        let Some([tag, class, key, _, _, rest @ ..]) = pickle.elements(id) else {
            return content("it refers to something outside that is no storage");
        };
        if rest.iter().any(|id| *pickle.node(*id) != Node::None) {
            return content("it was written by PyTorch 0.3 or before: load and save it with a newer one");
        }
        let (Some("storage"), Some(class), Some(key)) = (pickle.text(*tag), pickle.global(*class), pickle.text(*key))
        else {
            return content("it refers to something outside that is no storage");
        };
        let kind = match class.strip_prefix("torch.").unwrap_or(class) {
            "FloatStorage" => Kind::Float,
            "DoubleStorage" => Kind::Double,
            "HalfStorage" => Kind::Half,
            "BFloat16Storage" => Kind::BFloat16,
            "LongStorage" => Kind::Int64,
            "IntStorage" => Kind::Int,
            "ShortStorage" => Kind::Int16,
            "CharStorage" => Kind::Int8,
            "ByteStorage" => Kind::Uint8,
            "BoolStorage" => Kind::Bool,
            _ => return content(format!("it has tensors of the unsupported type {class}")),
        };
        Ok(Storage { key: key.to_owned(), kind })
    }
}

fn flat(bytes: &[u8], storage: &Storage) -> Result<Tensor, PthError> {
    let count = bytes.len() / storage.kind.elt_size_in_bytes();
    Ok(Tensor::f_from_data_size(bytes, &[count as i64], storage.kind)?)
}

/// The tensors of the state dict that a pickle holds.
fn tensors(
    pickle: &Pickle,
    mut load: impl FnMut(&Storage) -> Result<Tensor, PthError>,
) -> Result<BTreeMap<String, Tensor>, PthError> {
    let mut storages: HashMap<String, Tensor> = HashMap::new();
    let mut tensors = BTreeMap::new();
    for &(name, value) in state_dict(pickle)? {
        let Some(name) = pickle.text(name) else { return content("its state dict has a key that is no text") };
        let Some(view) = View::of(pickle, value) else { return content(format!("its {name} is no tensor")) };
        let storage = Storage::of(pickle, view.storage)?;
        if !storages.contains_key(&storage.key) {
            storages.insert(storage.key.clone(), load(&storage)?);
        }
        let numbers = &storages[&storage.key];
        if numbers.kind() != storage.kind || !view.lies_within(numbers.numel()) {
            return content(format!("its tensor {name} reaches beyond its storage"));
        }
        // A stride of 0 makes billions of numbers of one.
        if view.count().is_none_or(|count| count > numbers.numel()) {
            return content(format!("its tensor {name} repeats numbers of its storage: save tensor.contiguous()"));
        }
        // A view takes no memory of its own, however many of them there are.
        tensors.insert(name.to_owned(), numbers.f_as_strided(&view.size, &view.stride, view.offset)?);
    }
    Ok(tensors)
}

/// A tensor: where its numbers lie in a storage.
struct View {
    storage: Id,
    offset: i64,
    size: Vec<i64>,
    stride: Vec<i64>,
}

impl View {
    /// `None` for what is no dense tensor.
    fn of(pickle: &Pickle, id: Id) -> Option<View> {
        let Node::Call { callable, arguments, .. } = pickle.node(id) else { return None };
        let arguments = pickle.elements(*arguments)?;
        match (pickle.global(*callable)?, arguments) {
            ("torch._utils._rebuild_tensor_v2", &[storage, offset, size, stride, ..]) => {
                let Node::Persistent(storage) = *pickle.node(storage) else { return None };
                let integers = |id| pickle.elements(id)?.iter().map(|id| pickle.int(*id)).collect::<Option<Vec<_>>>();
                let view =
                    View { storage, offset: pickle.int(offset)?, size: integers(size)?, stride: integers(stride)? };
                (view.size.len() == view.stride.len()).then_some(view)
            }
            // A parameter: its tensor, and whether it is learned. One level of it is all that PyTorch writes.
            ("torch._utils._rebuild_parameter", &[tensor, ..])
                if !matches!(pickle.node(tensor), Node::Call { callable, .. } if pickle.global(*callable)
                    == Some("torch._utils._rebuild_parameter")) =>
            {
                View::of(pickle, tensor)
            }
            _ => None,
        }
    }

    /// How many numbers it has; none if no number says it.
    fn count(&self) -> Option<usize> {
        if self.size.contains(&0) {
            return Some(0);
        }
        self.size.iter().try_fold(1_usize, |count, size| count.checked_mul(usize::try_from(*size).ok()?))
    }

    fn lies_within(&self, count: usize) -> bool {
        let natural = |values: &[i64]| values.iter().all(|value| *value >= 0);
        if self.offset < 0 || !natural(&self.size) || !natural(&self.stride) {
            return false;
        }
        if self.size.contains(&0) {
            return true;
        }
        let last = self
            .size
            .iter()
            .zip(&self.stride)
            .try_fold(self.offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?));
        last.is_some_and(|last| (last as u64) < count as u64)
    }
}

/// The items of a state dict, which may be a section of what was saved.
fn state_dict(pickle: &Pickle) -> Result<&[(Id, Id)], PthError> {
    let Some(items) = dict(pickle, pickle.root()) else {
        return match pickle.node(pickle.root()) {
            Node::Call { callable, .. } if pickle.global(*callable).is_some() => content(format!(
                "it holds a {}, to read which its code would have to be run: save model.state_dict()",
                pickle.global(*callable).unwrap_or_default()
            )),
            _ => content("it holds no state dict: save model.state_dict()"),
        };
    };
    if items.iter().any(|(_, value)| View::of(pickle, *value).is_some()) {
        return Ok(items);
    }
    let section = |wanted: &str| {
        let (_, value) = items.iter().find(|(name, _)| pickle.text(*name) == Some(wanted))?;
        dict(pickle, *value)
    };
    SECTIONS.into_iter().find_map(section).ok_or_else(|| {
        let names: Vec<&str> = items.iter().filter_map(|(name, _)| pickle.text(*name)).take(8).collect();
        let found = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        PthError::Content(format!("it holds no tensors under {}, but {found}", SECTIONS.join(", ")))
    })
}

fn dict(pickle: &Pickle, id: Id) -> Option<&[(Id, Id)]> {
    match pickle.node(id) {
        Node::Dict(items) => Some(items),
        Node::Call { callable, items, .. } if pickle.global(*callable) == Some("collections.OrderedDict") => {
            Some(items)
        }
        _ => None,
    }
}
