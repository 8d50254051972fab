//! Batch norms over the batches of two ranks, against PyTorch's own batch norm over both batches in one process. (Its
//! SyncBatchNorm is for GPUs alone.) The batches are of different sizes.

use std::collections::BTreeMap;
use std::path::Path;

use crds::model::Architecture;
use libtest_mimic::{Failed, Trial};
use tch::{Device, Kind, Tensor};
use trainer::ddp::{DdpError, Group, Rendezvous};
use trainer::torch::{self, SyncNorm, TorchError};
use trainer::zoo::{Blueprint, Model, Role, read_safetensors, write_safetensors};

use crate::process::Ranks;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("batch norms over 2 ranks are those of one process with both batches", two_ranks_are_one_process)]
}

/// Key of the run in which ranks do this.
pub(crate) const RUN: &str = "sync-norm";
/// Number of ranks.
pub(crate) const WORLD_SIZE: u32 = 2;
/// Images of each rank.
const IMAGES: [i64; 2] = [3, 5];
const CHANNELS: i64 = 6;
const MOMENTUM: f64 = 0.1;
const EPSILON: f64 = 1e-5;
/// A single norm: largest difference of a value, as a part of the largest of its tensor where that is more than 1.
const CLOSE: f64 = 1e-5;
/// A whole network, whose 20 norms come one after the other: likewise.
const DEEP: f64 = 1e-4;

type Tensors = BTreeMap<String, Tensor>;

/// One rank: reads what it starts from, and writes what came out.
pub(crate) fn rank(folder: &Path, meeting: &Rendezvous) -> Result<(), DdpError> {
    let torch_error = |source: TorchError| DdpError::Torch { during: "a norm", source };
    let start = read_safetensors(&std::fs::read(folder.join("start.safetensors")).unwrap()).unwrap();
    let rank = meeting.rank as usize;
    let group = Group::join(meeting)?;
    let ranks = group.norm_ranks()?;
    let part = |name: &str| part(&start[name], rank);
    let mut result = Vec::new();
    for channels_last in [false, true] {
        let single = Single::new(&start, &part("images"), channels_last);
        let norm = single.norm();
        let output = ranks.batch_norm(&single.images, norm).map_err(torch_error)?;
        result.extend(single.results(&output, &part("by_output"), channels_last));
    }
    let mut model = resnet();
    model.synchronise_norms(&ranks);
    result.extend(whole(&model, &part("photos"), &part("labels")));
    std::fs::write(folder.join(format!("norm-{rank}.safetensors")), write_safetensors(&result).unwrap()).unwrap();
    group.barrier()
}

/// The images of a rank.
fn part(images: &Tensor, rank: usize) -> Tensor {
    let first: i64 = IMAGES[..rank].iter().sum();
    images.narrow(0, first, IMAGES[rank])
}

/// A single batch norm and its input.
struct Single {
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl Single {
    fn new(start: &Tensors, images: &Tensor, channels_last: bool) -> Single {
        let images = if channels_last { torch::to_channels_last(images).unwrap() } else { images.contiguous() };
        let leaf = |name: &str| start[name].copy().set_requires_grad(true);
        Single {
            images: images.detach().set_requires_grad(true),
            weight: leaf("weight"),
            bias: leaf("bias"),
            running_mean: start["running_mean"].copy(),
            running_var: start["running_var"].copy(),
        }
    }

    fn norm(&self) -> SyncNorm<'_> {
        SyncNorm {
            weight: &self.weight,
            bias: &self.bias,
            running_mean: &self.running_mean,
            running_var: &self.running_var,
            momentum: MOMENTUM,
            epsilon: EPSILON,
        }
    }

    /// All that came of it, for a loss whose gradient by the output is given.
    fn results(&self, output: &Tensor, by_output: &Tensor, channels_last: bool) -> Vec<(String, Tensor)> {
        torch::backward(&(output * by_output).sum(Kind::Float)).unwrap();
        assert_eq!(torch::is_channels_last(output), channels_last, "the norm keeps the memory format");
        let named = |name: &str, tensor: &Tensor| (format!("{channels_last}/{name}"), tensor.detach().contiguous());
        vec![
            named("each/output", output),
            named("each/by_images", &self.images.grad()),
            named("sum/by_weight", &self.weight.grad()),
            named("sum/by_bias", &self.bias.grad()),
            named("same/running_mean", &self.running_mean),
            named("same/running_var", &self.running_var),
        ]
    }
}

fn resnet() -> Model {
    let blueprint = Blueprint { architecture: Architecture::Resnet18, classes: 4, image_size: 64 };
    Model::new(blueprint, 5, Device::Cpu).unwrap()
}

/// Logits, gradients and statistics of a network after one pass.
fn whole(model: &Model, images: &Tensor, labels: &Tensor) -> Vec<(String, Tensor)> {
    let logits = model.forward(images, true).unwrap();
    torch::backward(&logits.cross_entropy_loss::<Tensor>(labels, None, tch::Reduction::Sum, -100, 0.0)).unwrap();
    let mut result = vec![("net/each/logits".to_owned(), logits.detach())];
    for entry in model.state().entries().iter().filter(|entry| entry.tensor.kind() == Kind::Float) {
        result.push(match entry.role {
            Role::Buffer => (format!("net/same/{}", entry.name), entry.tensor.copy()),
            _ => (format!("net/sum/{}", entry.name), entry.tensor.grad().contiguous()),
        });
    }
    result
}

fn start() -> Vec<(String, Tensor)> {
    tch::manual_seed(3);
    let all: i64 = IMAGES.iter().sum();
    let float = (Kind::Float, Device::Cpu);
    let named = |name: &str, tensor: Tensor| (name.to_owned(), tensor);
    vec![
        // Far from 0: where sums of squares lose digits.
        named(
            "images",
            Tensor::randn([all, CHANNELS, 7, 5], float)
                * Tensor::from_slice(&[0.1f32, 1.0, 2.0, 3.0, 4.0, 5.0]).view([1, 6, 1, 1])
                + 4.0,
        ),
        named("by_output", Tensor::randn([all, CHANNELS, 7, 5], float)),
        named("weight", Tensor::randn([CHANNELS], float)),
        named("bias", Tensor::randn([CHANNELS], float)),
        named("running_mean", Tensor::randn([CHANNELS], float)),
        named("running_var", Tensor::rand([CHANNELS], float) + 0.5),
        named("photos", Tensor::randn([all, 3, 64, 64], float)),
        named("labels", Tensor::randint(4, [all], (Kind::Int64, Device::Cpu))),
    ]
}

/// What one process makes of all images, by libtorch's own batch norm.
fn joined(start: &Tensors) -> Vec<(String, Tensor)> {
    let mut result = Vec::new();
    for channels_last in [false, true] {
        let single = Single::new(start, &start["images"], channels_last);
        let output = single.images.batch_norm(
            Some(&single.weight),
            Some(&single.bias),
            Some(&single.running_mean),
            Some(&single.running_var),
            true,
            MOMENTUM,
            EPSILON,
            false,
        );
        result.extend(single.results(&output, &start["by_output"], channels_last));
    }
    result.extend(whole(&resnet(), &start["photos"], &start["labels"]));
    result
}

fn two_ranks_are_one_process() -> Result<(), Failed> {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    let start = start();
    std::fs::write(folder.path().join("start.safetensors"), write_safetensors(&start)?)?;
    Ranks::ours_of_run(folder.path(), WORLD_SIZE, RUN).finish()?;
    let of_rank = |rank: u32| -> Result<Tensors, Failed> {
        Ok(read_safetensors(&std::fs::read(folder.path().join(format!("norm-{rank}.safetensors")))?)?)
    };
    let (first, second) = (of_rank(0)?, of_rank(1)?);
    let mut faults = Vec::new();
    for (name, expected) in joined(&start.into_iter().collect()) {
        let (one, other) = (&first[&name], &second[&name]);
        let together = match name.split('/').nth(1) {
            Some("each") => Tensor::cat(&[one, other], 0),
            Some("sum") => one + other,
            _ => {
                if one != other {
                    faults.push(format!("{name} differs between the ranks"));
                }
                one.shallow_clone()
            }
        };
        let largest = expected.abs().max().double_value(&[]).max(1.0);
        let apart = (together - &expected).abs().max().double_value(&[]) / largest;
        let most = if name.starts_with("net/") { DEEP } else { CLOSE };
        if apart.is_nan() || apart > most {
            faults.push(format!("{name} differs by {apart:e} of its largest value"));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}
