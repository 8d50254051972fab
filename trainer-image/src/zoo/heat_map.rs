//! Where in an image a network sees a class: Grad-CAM (Selvaraju et al. 2017).

use tch::{Device, Kind, Tensor};

use super::Model;
use crate::torch::TorchError;

/// What a network says of an image, and where it sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    /// One value for each class.
    pub logits: Vec<f32>,
    /// The class whose place is shown.
    pub class: usize,
    /// `height · width` values of 0 to 1, row by row: 1 where the most speaks for the class; 0 everywhere if nothing does.
    pub values: Vec<f32>,
}

impl Model {
    /// The heat map of one normalised image of shape `[1, 3, height, width]`, for the class that `choose` takes by the logits.
    /// Gradients are those of the head alone: nothing of the network below it is kept for them.
    ///
    /// # Errors
    /// Memory ran out, or the device failed.
    pub fn heat_map(&self, image: &Tensor, choose: impl FnOnce(&[f32]) -> usize) -> Result<HeatMap, TorchError> {
        let &[1, _, height, width] = image.size().as_slice() else {
            return Err(TorchError::Other(format!(
                "a heat map of {:?} images was asked for, not of one",
                image.size()
            )));
        };
        let features = tch::no_grad(|| self.net.features(image, false))?.f_detach()?.set_requires_grad(true);
        let logits = tch::with_grad(|| self.net.head(&features, false))?;
        let values: Vec<f32> = Vec::try_from(&host(&logits.f_view([-1])?)?)?;
        let class = choose(&values);
        let score = logits.f_select(1, class as i64)?.f_sum(Kind::Float)?;
        let gradient = Tensor::f_run_backward(&[&score], &[&features], false, false)?.swap_remove(0);

        let _no_grad = tch::no_grad_guard();
        let weights = self.net.maps(&gradient)?.f_mean_dim([2_i64, 3].as_slice(), true, Kind::Float)?;
        let seen = self.net.maps(&features)?.f_mul(&weights)?;
        let seen = seen.f_sum_dim_intlist([1_i64].as_slice(), true, Kind::Float)?.f_relu()?;
        let seen = seen.f_upsample_bilinear2d([height, width], false, None::<f64>, None::<f64>)?;
        let most = seen.f_max()?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
        let seen: Vec<f32> = Vec::try_from(&host(&seen.f_div(&most)?.f_view([-1])?)?)?;
        Ok(HeatMap { logits: values, class, values: seen })
    }
}

fn host(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()
}

#[cfg(test)]
mod tests {
    use crds::model::Architecture;
    use tch::kind;

    use super::*;
    use crate::zoo::Blueprint;

    fn model(architecture: Architecture, image_size: i64) -> Model {
        Model::new(Blueprint { architecture, classes: 3, image_size }, 7, Device::Cpu).unwrap()
    }

    /// Behind a pooling and one linear layer, Grad-CAM is the class activation map: features weighted by the layer's row
    /// (Zhou et al. 2016).
    #[test]
    fn a_resnet_s_heat_map_is_its_class_activation_map() {
        let model = model(Architecture::Resnet18, 64);
        tch::manual_seed(3);
        let image = Tensor::randn([1, 3, 64, 64], kind::FLOAT_CPU);
        let map = model.heat_map(&image, |_| 2).unwrap();
        let _no_grad = tch::no_grad_guard();
        let features = model.net.features(&image, false).unwrap();
        let entry = model.state().entries().iter().find(|entry| entry.name == "fc.weight").unwrap();
        let row = entry.tensor.get(2).view([1, -1, 1, 1]);
        let seen = (features * row).sum_dim_intlist([1_i64].as_slice(), true, Kind::Float).relu();
        let seen = seen.upsample_bilinear2d([64, 64], false, None::<f64>, None::<f64>);
        let expected = Vec::<f32>::try_from((&seen / seen.max()).view([-1])).unwrap();
        let furthest = map.values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < 1e-5, "{furthest}");
        let logits = Vec::<f32>::try_from(model.forward(&image, false).unwrap().view([-1])).unwrap();
        assert_eq!((map.class, map.logits), (2, logits));
    }

    #[test]
    fn every_family_has_heat_maps() {
        for (architecture, size) in [
            (Architecture::MobilenetV3Small, 64),
            (Architecture::EfficientnetB0, 64),
            (Architecture::ConvnextTiny, 64),
            (Architecture::VitB16, 32),
        ] {
            let model = model(architecture, size);
            let image = Tensor::randn([1, 3, size, size], kind::FLOAT_CPU);
            let map = model.heat_map(&image, |logits| logits.len() - 1).unwrap();
            assert_eq!((map.class, map.values.len() as i64), (2, size * size), "{architecture:?}");
            assert!(map.values.iter().all(|value| (0.0..=1.0).contains(value)), "{architecture:?}");
            assert!(model.state().entries().iter().all(|entry| !entry.tensor.grad().defined()), "{architecture:?}");
        }
    }
}
