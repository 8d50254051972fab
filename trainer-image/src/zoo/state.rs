//! A model's tensors by name, in the order of torchvision's `state_dict`.

use std::collections::BTreeMap;

use tch::{Device, Tensor};

use super::init::Init;
use super::weights::WeightsError;

/// What a tensor of a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Learned by the optimizer.
    Parameter,
    /// Learned once, now kept as it is.
    Frozen,
    /// Not learned: running statistics and counters.
    Buffer,
}

/// A tensor of a model.
#[derive(Debug)]
pub struct Entry {
    /// Its name in torchvision's `state_dict`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// The tensor itself; it shares its storage with the layer that uses it.
    pub tensor: Tensor,
}

/// A model's tensors, in the order of torchvision's `state_dict`.
#[derive(Debug)]
pub struct State {
    device: Device,
    /// Whether first values are drawn; else they are 0, since others come in their place.
    draws: bool,
    entries: Vec<Entry>,
}

impl State {
    pub(super) fn new(device: Device) -> State {
        State { device, draws: true, entries: Vec::new() }
    }

    /// A state whose parameters are all 0.
    pub(super) fn blank(device: Device) -> State {
        State { draws: false, ..State::new(device) }
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// A parameter with fresh values.
    pub(super) fn draw(&mut self, name: String, size: &[i64], init: Init) -> Tensor {
        let init = if self.draws { init } else { Init::Constant(0.0) };
        let values = init.draw(size, self.device);
        self.add(name, Role::Parameter, values.set_requires_grad(true))
    }

    pub(super) fn buffer(&mut self, name: String, tensor: Tensor) -> Tensor {
        self.add(name, Role::Buffer, tensor)
    }

    fn add(&mut self, name: String, role: Role, tensor: Tensor) -> Tensor {
        let shared = tensor.shallow_clone();
        self.entries.push(Entry { name, role, tensor });
        shared
    }

    /// Every tensor.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The parameters that are learned, by name.
    pub fn trainable(&self) -> Vec<(String, Tensor)> {
        self.with_role(Role::Parameter)
    }

    /// The buffers, by name.
    pub fn buffers(&self) -> Vec<(String, Tensor)> {
        self.with_role(Role::Buffer)
    }

    fn with_role(&self, role: Role) -> Vec<(String, Tensor)> {
        self.entries
            .iter()
            .filter(|entry| entry.role == role)
            .map(|entry| (entry.name.clone(), entry.tensor.shallow_clone()))
            .collect()
    }

    /// Number of learned values.
    pub fn trainable_values(&self) -> usize {
        self.trainable().iter().map(|(_, tensor)| tensor.numel()).sum()
    }

    pub(super) fn freeze(&mut self, prefixes: &[String]) {
        for entry in self.entries.iter_mut().filter(|entry| entry.role == Role::Parameter) {
            if is_below(&entry.name, prefixes) {
                entry.role = Role::Frozen;
                let _ = entry.tensor.set_requires_grad(false);
            }
        }
    }

    /// Every tensor by name, where it is.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.entries.iter().map(|entry| (entry.name.clone(), entry.tensor.shallow_clone())).collect()
    }

    /// A copy of every tensor on the host, contiguous in the usual order of dimensions.
    pub fn snapshot(&self) -> Vec<(String, Tensor)> {
        host_copies(self.tensors())
    }

    /// Takes every tensor from `tensors`, which must have the same names and shapes.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<(), WeightsError> {
        let faults = self.differences(tensors, None);
        if !faults.is_empty() {
            return Err(WeightsError::Mismatch(faults));
        }
        self.copy_from(tensors, None)
    }

    /// Takes weights trained for other classes: as [`restore`](Self::restore), but where the tensors of `head` are missing
    /// or have another shape, the model's fresh ones stay. Says whether the head was taken.
    pub(super) fn adopt(&mut self, tensors: &BTreeMap<String, Tensor>, head: &str) -> Result<bool, WeightsError> {
        let skip = if self.differences(tensors, None).is_empty() { None } else { Some(head) };
        let faults = self.differences(tensors, skip);
        if !faults.is_empty() {
            return Err(WeightsError::Mismatch(faults));
        }
        self.copy_from(tensors, skip)?;
        Ok(skip.is_none())
    }

    fn copy_from(&mut self, tensors: &BTreeMap<String, Tensor>, skip: Option<&str>) -> Result<(), WeightsError> {
        let _no_grad = tch::no_grad_guard();
        for entry in self.entries.iter_mut().filter(|entry| !in_head(&entry.name, skip)) {
            if let Some(tensor) = tensors.get(&entry.name) {
                entry.tensor.f_copy_(tensor)?;
            }
        }
        Ok(())
    }

    /// One sentence for each tensor that is missing, surplus or misshapen; tensors of `head` are not compared.
    fn differences(&self, tensors: &BTreeMap<String, Tensor>, head: Option<&str>) -> Vec<String> {
        let mut faults = Vec::new();
        for entry in self.entries.iter().filter(|entry| !in_head(&entry.name, head)) {
            match tensors.get(&entry.name) {
                // Older state dicts lack the counter of batches; it plays no part in the numbers.
                None if entry.name.ends_with("num_batches_tracked") => {}
                None => faults.push(format!("{} is missing", entry.name)),
                Some(tensor) if tensor.size() != entry.tensor.size() => {
                    faults.push(format!(
                        "{} has the shape {:?} where the model has {:?}",
                        entry.name,
                        tensor.size(),
                        entry.tensor.size()
                    ));
                }
                Some(_) => {}
            }
        }
        for name in tensors.keys().filter(|name| !in_head(name, head)) {
            if !self.entries.iter().any(|entry| &entry.name == name) {
                faults.push(format!("{name} is not a tensor of the model"));
            }
        }
        faults
    }
}

/// A copy on the host, contiguous in the usual order of dimensions whatever the memory format of the original.
pub fn host_copy(tensor: &Tensor) -> Tensor {
    tch::no_grad(|| {
        let mut copy = Tensor::empty(tensor.size(), (tensor.kind(), Device::Cpu));
        copy.copy_(tensor);
        copy
    })
}

/// Copies of tensors by name on the host, each as [`host_copy`].
pub fn host_copies(tensors: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    tensors.into_iter().map(|(name, tensor)| (name, host_copy(&tensor))).collect()
}

/// Whether one of `prefixes` is this name or that of a layer around it.
pub(super) fn is_below(name: &str, prefixes: &[impl AsRef<str>]) -> bool {
    prefixes
        .iter()
        .any(|prefix| name.strip_prefix(prefix.as_ref()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

fn in_head(name: &str, head: Option<&str>) -> bool {
    head.is_some_and(|head| is_below(name, &[head]))
}
