//! Compares two safetensors files byte by byte, and says how much differs.

use trainer::zoo::read_safetensors;

/// Fails unless both files have the same tensors with the same bytes.
pub(crate) fn compare(ours: &[u8], theirs: &[u8]) -> Result<(), String> {
    let (ours, theirs) = (read_safetensors(ours).unwrap(), read_safetensors(theirs).unwrap());
    let names = |of: &std::collections::BTreeMap<String, tch::Tensor>| of.keys().cloned().collect::<Vec<_>>();
    if names(&ours) != names(&theirs) {
        return Err(format!("other names: {:?} and {:?}", names(&ours), names(&theirs)));
    }
    let differences: Vec<String> = ours
        .iter()
        .filter(|(name, tensor)| bytes(tensor) != bytes(&theirs[*name]))
        .map(|(name, tensor)| {
            let difference = (tensor.to_kind(tch::Kind::Double) - theirs[name].to_kind(tch::Kind::Double)).abs();
            format!("{name} by up to {}", difference.max().double_value(&[]))
        })
        .collect();
    match differences.len() {
        0 => Ok(()),
        count => Err(format!("{count} of {} tensors differ: {}", ours.len(), differences[..count.min(8)].join(", "))),
    }
}

fn bytes(tensor: &tch::Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}
