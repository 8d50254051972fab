//! Files of weights: safetensors, and what `torch.save` writes.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use tch::Tensor;
use zip::ZipWriter;
use zip::write::FileOptions;

use super::{Seed, assert_refused};
use crate::fault::Fault;
use crate::zoo::{WeightsError, read_safetensors, read_weights, write_safetensors};

/// Bytes of the storage that comes with each pickle.
const STORAGE: usize = 64;
/// Tensors of up to so many bytes are written and read again.
const SMALL: usize = 1 << 16;

pub(super) fn safetensors(bytes: &[u8]) -> bool {
    check(bytes.len(), read_safetensors(bytes))
}

pub(super) fn pth(bytes: &[u8]) -> bool {
    check(bytes.len(), read_weights(bytes))
}

/// The pickle of an archive, whose check sum is right whatever was done to it.
pub(super) fn pickle(bytes: &[u8]) -> bool {
    let archive = archive(&[("data.pkl", bytes), ("byteorder", b"little"), ("data/0", &storage())]);
    check(archive.len(), read_weights(&archive))
}

/// That tensors are no more than the file, and are the same again after they were written.
fn check(size: usize, read: Result<BTreeMap<String, Tensor>, WeightsError>) -> bool {
    let mut tensors = match read {
        Ok(tensors) => tensors,
        Err(error) => {
            assert_refused(&Fault::from(error));
            return false;
        }
    };
    let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
    for (name, tensor) in &tensors {
        assert!(bytes(tensor) <= size, "{name} has {} bytes, and the file {size}", bytes(tensor));
    }
    // That is safetensors' own entry.
    tensors.remove("__metadata__");
    if tensors.values().map(bytes).sum::<usize>() > SMALL {
        return true;
    }
    let write = |tensors: BTreeMap<String, Tensor>| write_safetensors(&tensors.into_iter().collect::<Vec<_>>());
    match write(tensors) {
        Ok(written) => {
            let again = read_safetensors(&written).expect("what was written");
            assert!(write(again).expect("what was read") == written, "read again, they differ");
        }
        // Numbers of a kind that is only read from `.pth` files.
        Err(WeightsError::Mismatch(_)) => {}
        Err(error) => panic!("what was read can't be written: {error}"),
    }
    true
}

pub(super) fn safetensors_seeds() -> Vec<Seed> {
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}"#;
    let empty = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[0,3],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let seed = |name, header: &str, data: &[u8]| {
        Seed::new(name, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat())
    };
    vec![seed("two tensors", header, &storage()[..24]), seed("an empty tensor", empty, &[1])]
}

pub(super) fn pth_seeds() -> Vec<Seed> {
    let state = state_dict(&TENSORS, false);
    let section = [b"\x80\x02}X\x05\0\0\0epochK\x03sX\x05\0\0\0model", &state[2..state.len() - 1], b"s."].concat();
    let section: &[u8] = &section;
    let zip = |pickle: &[u8]| archive(&[("data.pkl", pickle), ("byteorder", b"little"), ("data/0", &storage())]);
    vec![
        Seed::new("archive", zip(&state)),
        Seed::new("a section of an archive", zip(section)),
        Seed::new("legacy", legacy()),
        Seed::new("safetensors", safetensors_seeds().swap_remove(0).bytes),
    ]
}

pub(super) fn pickle_seeds() -> Vec<Seed> {
    vec![Seed::new("state dict", state_dict(&TENSORS, false)), Seed::new("parameters", state_dict(&TENSORS, true))]
}

fn storage() -> Vec<u8> {
    (0..STORAGE / 4).flat_map(|value| (value as f32 / 2.0).to_le_bytes()).collect()
}

/// A tensor as a pickle describes it: name, key of its storage, offset, size and stride.
type Described<'a> = (&'a str, &'a str, i64, &'a [i64], &'a [i64]);

/// A transposed view, and one of the beginning.
const TENSORS: [Described<'static>; 2] = [("w", "0", 1, &[2, 3], &[1, 2]), ("b", "0", 0, &[3], &[1])];

/// A dict of tensors as Python pickles it, or of parameters.
fn state_dict(tensors: &[Described<'_>], as_parameters: bool) -> Vec<u8> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let integer = |value: i64| match u8::try_from(value) {
        Ok(byte) => vec![b'K', byte],
        Err(_) => [&b"\x8a\x08"[..], &value.to_le_bytes()].concat(),
    };
    let tuple =
        |values: &[i64]| [b"(", &values.iter().copied().flat_map(integer).collect::<Vec<_>>()[..], b"t"].concat();
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (name, key, offset, size, stride) in tensors {
        let tensor = [
            &b"ctorch._utils\n_rebuild_tensor_v2\n("[..],
            &[b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text(key), &text("cpu"), b"K\x10tQ"].concat(),
            &[integer(*offset), tuple(size), tuple(stride)].concat(),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
        .concat();
        pickle.extend(text(name));
        match as_parameters {
            true => pickle.extend([b"ctorch._utils\n_rebuild_parameter\n(", &tensor[..], b"\x88}tR"].concat()),
            false => pickle.extend(tensor),
        }
    }
    pickle.extend(b"u.");
    pickle
}

/// A zip archive as PyTorch writes it, of these parts.
fn archive(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in parts {
        let options = FileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file(format!("archive/{name}"), options).expect("a part");
        archive.write_all(bytes).expect("its bytes");
    }
    archive.finish().expect("an archive").into_inner()
}

/// The format before PyTorch 1.6.
fn legacy() -> Vec<u8> {
    let magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
    let (version, machine, keys) = (b"\x80\x02M\xe9\x03.", b"\x80\x02}.", b"\x80\x02]X\x01\0\0\x000a.");
    let count = (STORAGE as u64 / 4).to_le_bytes();
    [&magic[..], version, machine, &state_dict(&TENSORS, false), keys, &count, &storage()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a refusal.
    fn refusal(bytes: &[u8]) -> String {
        read_weights(bytes).expect_err("more than the file holds").to_string()
    }

    #[test]
    fn tensors_that_repeat_numbers_are_refused() {
        let cases: [(&[i64], &[i64]); 3] = [(&[1 << 40], &[0]), (&[4, 5], &[1, 1]), (&[1 << 40, 1 << 40], &[0, 0])];
        for (size, stride) in cases {
            let pickle = state_dict(&[("w", "0", 0, size, stride)], false);
            let sentence = "its tensor w repeats numbers of its storage: save tensor.contiguous()";
            let words = refusal(&archive(&[("data.pkl", &pickle), ("data/0", &storage())]));
            assert!(words.ends_with(sentence), "{size:?}: {words}");
        }
    }

    #[test]
    fn storages_that_lie_over_each_other_are_refused() {
        let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let tensors: Vec<Described<'_>> = names.iter().map(|name| (*name, *name, 0, &[4][..], &[1][..])).collect();
        let large = vec![1; 1 << 14];
        let bytes = archive(&[("data.pkl", &state_dict(&tensors, false)), ("data/0", &large)]);
        assert!(refusal(&bytes).contains("specified file not found"));
        assert!(refusal(&with_copies(&bytes, 9)).ends_with("its storages lie over each other"));
    }

    /// The archive with entries that say that they lie where the last one does, under the next digits.
    fn with_copies(archive: &[u8], copies: u8) -> Vec<u8> {
        let end = archive.windows(4).rposition(|window| window == b"PK\x05\x06").expect("the end of the directory");
        let last = archive.windows(4).rposition(|window| window == b"PK\x01\x02").expect("an entry");
        let entry = &archive[last..end];
        let name = entry.windows(6).position(|window| window == b"data/0").expect("its name");
        let mut bytes = archive[..end].to_vec();
        for copy in 1..=copies {
            let mut entry = entry.to_vec();
            entry[name + 5] = b'0' + copy;
            bytes.extend(entry);
        }
        // How many entries there are, twice, and how many bytes they take.
        let mut tail = archive[end..].to_vec();
        let size = u32::from_le_bytes(tail[12..16].try_into().expect("4 bytes"));
        tail[8] += copies;
        tail[10] += copies;
        tail[12..16].copy_from_slice(&(size + u32::from(copies) * entry.len() as u32).to_le_bytes());
        bytes.extend(tail);
        bytes
    }
}
