//! Networks train where only deterministic algorithms are allowed. A program of its own: what is allowed is a flag of the
//! process.

use crds::model::Architecture;
use tch::{Device, Kind, Reduction, Tensor};
use trainer::torch::{Autocast, allow_only_deterministic, backward, is_deterministic};
use trainer::zoo::{Blueprint, Model};

/// One of each family, which share their operations.
const FAMILIES: [Architecture; 5] = [
    Architecture::Resnet18,
    Architecture::EfficientnetB0,
    Architecture::MobilenetV3Small,
    Architecture::ConvnextTiny,
    Architecture::VitB16,
];

#[test]
fn every_family_of_networks_has_a_deterministic_step() {
    assert!(!is_deterministic());
    allow_only_deterministic().unwrap();
    assert!(is_deterministic());
    let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
    let labels = Tensor::from_slice(&[0_i64, 2]);
    for architecture in FAMILIES {
        let model = Model::new(Blueprint { architecture, classes: 3, image_size: 32 }, 1, Device::Cpu).unwrap();
        let gradients = || {
            model.state().trainable().iter_mut().for_each(|(_, parameter)| parameter.zero_grad());
            tch::manual_seed(5);
            let logits = {
                let _autocast = Autocast::enter(Device::Cpu, Kind::Float).unwrap();
                model.forward(&images, true).unwrap()
            };
            backward(&logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.1)).unwrap();
            model.state().trainable().iter().map(|(_, parameter)| parameter.grad().copy()).collect::<Vec<_>>()
        };
        assert!(gradients() == gradients(), "{architecture:?} has other gradients the second time");
    }
}
