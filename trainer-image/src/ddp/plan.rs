//! Which gradients travel together: a pure function, the same as libtorch's for dense tensors.

use tch::{Device, Kind, Tensor};

/// What the plan needs to know of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Size in bytes.
    pub bytes: usize,
    /// Kind of its elements; kinds don't share a bucket.
    pub kind: Kind,
    /// Where it is; devices don't share a bucket.
    pub device: Device,
}

impl Shape {
    /// What the plan needs to know of `tensor`.
    pub fn of(tensor: &Tensor) -> Shape {
        Shape {
            bytes: tensor.numel() * tensor.kind().elt_size_in_bytes(),
            kind: tensor.kind(),
            device: tensor.device(),
        }
    }
}

/// Assigns parameters, in the order of the model, to buckets, in the order of their first member. A bucket is closed
/// when it has reached its limit: the first of a kind and device `limits[0]` bytes, the next `limits[1]`, all later ones
/// the last limit. No limit at all means one bucket for each kind and device.
pub fn plan_buckets(shapes: &[Shape], limits: &[usize]) -> Vec<Vec<usize>> {
    struct Open {
        key: (Kind, Device),
        members: Vec<usize>,
        bytes: usize,
        closed: usize,
    }
    let limit = |closed: usize| limits.get(closed).or(limits.last()).copied().unwrap_or(usize::MAX);
    let mut open: Vec<Open> = Vec::new();
    let mut plan = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        let key = (shape.kind, shape.device);
        let at = open.iter().position(|bucket| bucket.key == key).unwrap_or_else(|| {
            open.push(Open { key, members: Vec::new(), bytes: 0, closed: 0 });
            open.len() - 1
        });
        let bucket = &mut open[at];
        bucket.members.push(index);
        bucket.bytes += shape.bytes;
        if bucket.bytes >= limit(bucket.closed) {
            plan.push(std::mem::take(&mut bucket.members));
            bucket.bytes = 0;
            bucket.closed += 1;
        }
    }
    plan.extend(open.into_iter().map(|bucket| bucket.members).filter(|members| !members.is_empty()));
    plan.sort_by_key(|members| members[0]);
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::assign_buckets;

    /// Buckets in the form of [`assign_buckets`]: the bucket of each tensor.
    fn by_tensor(plan: &[Vec<usize>]) -> Vec<usize> {
        let mut bucket_of = vec![usize::MAX; plan.iter().map(Vec::len).sum()];
        for (bucket, members) in plan.iter().enumerate() {
            for &member in members {
                bucket_of[member] = bucket;
            }
        }
        bucket_of
    }

    #[test]
    fn the_plan_is_libtorch_s() {
        use Kind::{Double, Float, Half};
        let tables: [&[(i64, Kind)]; 5] = [
            &[(10, Float)],
            &[(100, Float), (100, Float), (300, Float), (1, Float), (1, Float)],
            &[(100, Float), (100, Half), (300, Float), (300, Half), (5, Double), (5, Float)],
            &[(1, Float), (1, Double), (1, Float), (1, Double), (1, Float)],
            &[(256, Float), (256, Float), (1024, Float), (0, Float)],
        ];
        for table in tables {
            for limits in [vec![usize::MAX >> 1], vec![400], vec![64, 1000], vec![1, 2, 3]] {
                let tensors: Vec<Tensor> =
                    table.iter().map(|&(length, kind)| Tensor::zeros([length], (kind, Device::Cpu))).collect();
                let shapes: Vec<Shape> = tensors.iter().map(Shape::of).collect();
                let ours = by_tensor(&plan_buckets(&shapes, &limits));
                assert_eq!(ours, assign_buckets(&tensors, &limits).unwrap(), "{table:?} {limits:?}");
            }
        }
    }
}
