//! Makes sure, before anything is averaged, that all ranks have the same model. libtorch's own check compares shapes by
//! number alone and goes wrong where models have other numbers of dimensions; this one names what differs, and on which
//! ranks. It costs one collective of 32 bytes for each rank.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tch::Tensor;

use super::error::{DdpError, During, Ranks};
use super::group::Group;

/// How long a rank waits for the description of another one's model, which has joined already.
const DESCRIPTION: Duration = Duration::from_secs(30);
/// Differences of a model that are told; the others are counted.
const TOLD: usize = 3;

/// Fails on every rank, with the same words, unless all have the same tensors in the same order.
///
/// # Errors
/// [`DdpError::Differs`], or a rank is gone.
pub(super) fn same_model(
    group: &Group,
    parameters: &[(String, Tensor)],
    buffers: &[(String, Tensor)],
) -> Result<(), DdpError> {
    const DURING: &str = "comparing the model between ranks";
    if group.world_size() == 1 {
        return Ok(());
    }
    let own = describe(parameters, buffers);
    let digest = Tensor::from_slice(Sha256::digest(&own).as_slice()).to_device(group.device());
    let digests = group.all_gather(&digest)?.to_device(tch::Device::Cpu);
    let mut same: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
    for (rank, digest) in (0..group.world_size()).zip(digests.unbind(0)) {
        let bytes = Vec::<u8>::try_from(&digest).map_err(Into::into).during(DURING)?;
        same.entry(bytes).or_default().push(rank);
    }
    if same.len() == 1 {
        return Ok(());
    }
    let mut models: Vec<Vec<u32>> = same.into_values().collect();
    models.sort();
    // The lowest rank with a model describes it to all.
    let key = |ranks: &[u32]| format!("model/{}", ranks[0]);
    if let Some(ranks) = models.iter().find(|ranks| ranks[0] == group.rank()) {
        group.set(&key(ranks), own.as_bytes())?;
    }
    let read = |ranks: &[u32]| -> Result<String, DdpError> {
        Ok(String::from_utf8_lossy(&group.get(&key(ranks), DESCRIPTION)?).into_owned())
    };
    let (first, other) = (&models[0], &models[1]);
    let difference = difference((first, &read(first)?), (other, &read(other)?));
    // The store ends with rank 0: nobody leaves before all have read.
    group.barrier()?;
    Err(DdpError::Differs { difference, models: models.len() })
}

/// A line for each tensor: its name, what it is, and its strides.
fn describe(parameters: &[(String, Tensor)], buffers: &[(String, Tensor)]) -> String {
    let line = |role: &'static str| {
        move |(name, tensor): &(String, Tensor)| {
            format!("{name}\ta {role} {:?} of {:?}\t{:?}\n", tensor.size(), tensor.kind(), tensor.stride())
        }
    };
    parameters.iter().map(line("parameter")).chain(buffers.iter().map(line("buffer"))).collect()
}

/// A model as [`describe`] writes it.
fn lines(model: &str) -> Vec<[&str; 3]> {
    let parts = |line| {
        let mut parts = str::split(line, '\t');
        [parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or("")]
    };
    model.lines().map(parts).collect()
}

/// What tells two models apart, each with the ranks that have it.
fn difference((ranks, model): (&[u32], &str), (other_ranks, other_model): (&[u32], &str)) -> String {
    let (ours, theirs) = (lines(model), lines(other_model));
    let on = |ranks: &[u32]| match ranks {
        [one] => format!("rank {one}"),
        several => format!("ranks {}", Ranks(several)),
    };
    let (here, there) = (on(ranks), on(other_ranks));
    let by_name = |lines: &[[&str; 3]]| -> BTreeMap<String, [String; 2]> {
        lines.iter().map(|[name, what, strides]| ((*name).to_owned(), [*what, *strides].map(str::to_owned))).collect()
    };
    let (our_names, their_names) = (by_name(&ours), by_name(&theirs));
    let mut found = Vec::new();
    for [name, what, strides] in &ours {
        match their_names.get(*name) {
            None => found.push(format!("{name} is {what} on {here} and not there on {there}")),
            Some([theirs, _]) if theirs != what => {
                found.push(format!("{name} is {what} on {here} and {theirs} on {there}"));
            }
            Some([_, theirs]) if theirs != strides => {
                found.push(format!("{name} has strides {strides} on {here} and {theirs} on {there}"));
            }
            Some(_) => {}
        }
    }
    let surplus = theirs.iter().filter(|[name, ..]| !our_names.contains_key(*name));
    found.extend(surplus.map(|[name, what, _]| format!("{name} is {what} on {there} and not there on {here}")));
    if found.is_empty()
        && let Some(at) = ours.iter().zip(&theirs).position(|(one, other)| one != other)
    {
        return format!("tensor {at} is {} on {here} and {} on {there}", ours[at][0], theirs[at][0]);
    }
    let more = found.len().saturating_sub(TOLD);
    found.truncate(TOLD);
    let more = if more == 0 { String::new() } else { format!("; and {more} more differ") };
    format!("{}{more}", found.join("; "))
}

#[cfg(test)]
mod tests {
    use tch::kind::{FLOAT_CPU, INT64_CPU};

    use super::*;

    fn named(name: &str, size: &[i64]) -> (String, Tensor) {
        (name.to_owned(), Tensor::zeros(size, FLOAT_CPU))
    }

    fn apart(one: &[(String, Tensor)], other: &[(String, Tensor)]) -> String {
        difference((&[0, 2], &describe(one, &[])), (&[1], &describe(other, &[])))
    }

    #[test]
    fn what_differs_is_told_by_name_shape_and_rank() {
        let base = [named("conv.weight", &[8, 3, 3, 3]), named("fc.weight", &[10, 8]), named("fc.bias", &[10])];
        let other = |tensors: Vec<(String, Tensor)>| apart(&base, &tensors);
        assert_eq!(
            other(vec![named("conv.weight", &[8, 3, 3, 3]), named("fc.weight", &[11, 8]), named("fc.bias", &[11])]),
            "fc.weight is a parameter [10, 8] of Float on ranks 0, 2 and a parameter [11, 8] of Float on rank 1; \
             fc.bias is a parameter [10] of Float on ranks 0, 2 and a parameter [11] of Float on rank 1"
        );
        assert_eq!(
            apart(&base[2..], &[named("fc.bias", &[10]), named("fc.scale", &[1])]),
            "fc.scale is a parameter [1] of Float on rank 1 and not there on ranks 0, 2"
        );
        let lacks = other(vec![named("conv.weight", &[8, 3, 3, 3]), named("fc.weight", &[10, 8])]);
        assert_eq!(lacks, "fc.bias is a parameter [10] of Float on ranks 0, 2 and not there on rank 1");
        let turned =
            other(vec![named("fc.weight", &[10, 8]), named("conv.weight", &[8, 3, 3, 3]), named("fc.bias", &[10])]);
        assert_eq!(turned, "tensor 0 is conv.weight on ranks 0, 2 and fc.weight on rank 1");
    }

    #[test]
    fn kinds_and_strides_count_too() {
        let float = [named("x", &[2, 3])];
        let whole = [("x".to_owned(), Tensor::zeros([2, 3], INT64_CPU))];
        assert!(apart(&float, &whole).contains("a parameter [2, 3] of Int64 on rank 1"), "{}", apart(&float, &whole));
        let across = [("x".to_owned(), Tensor::zeros([3, 2], FLOAT_CPU).transpose(0, 1))];
        assert_eq!(apart(&float, &across), "x has strides [3, 1] on ranks 0, 2 and [1, 2] on rank 1");
    }

    #[test]
    fn many_differences_are_counted() {
        let of = |size: i64| (0..9).map(|index| named(&format!("p{index}"), &[size])).collect::<Vec<_>>();
        assert!(apart(&of(1), &of(2)).ends_with("; and 6 more differ"));
    }
}
