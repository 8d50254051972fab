//! Reads and writes safetensors.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use tch::{Kind, Tensor};

use super::WeightsError;

/// The tensors of a safetensors file, by name.
pub fn read_safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        // An empty tensor may have an extent that is beyond everything.
        let size = view.shape().iter().map(|&extent| i64::try_from(extent)).collect::<Result<Vec<i64>, _>>();
        let size = size.map_err(|_| SafeTensorError::ValidationOverflow)?;
        let kind = kind_of(view.dtype())
            .ok_or_else(|| WeightsError::Mismatch(vec![format!("{name} has the unsupported type {}", view.dtype())]))?;
        tensors.insert(name, Tensor::f_from_data_size(view.data(), &size, kind)?);
    }
    Ok(tensors)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        _ => return None,
    })
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Int64 => Dtype::I64,
        Kind::Int => Dtype::I32,
        Kind::Uint8 => Dtype::U8,
        _ => return None,
    })
}

/// A safetensors file of these tensors, which lie on the host.
pub fn write_safetensors(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, WeightsError> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = dtype_of(tensor.kind()).ok_or_else(|| {
            WeightsError::Mismatch(vec![format!("{name} has the unsupported type {:?}", tensor.kind())])
        })?;
        let mut bytes = vec![0u8; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        let shape: Vec<usize> = tensor.size().iter().map(|&extent| extent as usize).collect();
        views.push((name.clone(), dtype, shape, bytes));
    }
    let views = views
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    Ok(safetensors::serialize(views, None)?)
}
