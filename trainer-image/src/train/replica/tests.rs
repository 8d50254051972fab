//! That a step is the same however it comes to the device, and counts what it should.

use crds::model::Architecture;
use crds::optimizer::{Algorithm, OptimizerSettings};
use tch::Device;

use super::*;
use crate::data::{Flips, Preprocessing};
use crate::ddp::{DdpOptions, Group};
use crate::metrics::Phases;
use crate::zoo::Blueprint;

const IMAGES: usize = 8;
const SIDE: i64 = 32;

/// With all that a recorded step may have: blended images, weighted classes, smoothed labels, clipping, an average. Nothing in
/// it is drawn: libtorch's generator is one for all tests.
fn replica(group: &Group, mixup: f64) -> Replica<'_> {
    let blueprint = Blueprint { architecture: Architecture::Resnet18, classes: 3, image_size: SIDE };
    let model = Model::blank(blueprint, Device::Cpu).unwrap();
    for entry in model.state().entries() {
        let (tensor, size) = (&entry.tensor, entry.tensor.size());
        if tensor.requires_grad() {
            let values = Tensor::arange(tensor.numel() as i64, (Kind::Float, Device::Cpu)).sin() * 0.05;
            // Those of norms are about 1.
            let values = if size.len() == 1 { values + 1.0 } else { values };
            tch::no_grad(|| tensor.shallow_clone().copy_(&values.view(size.as_slice())));
        }
        torch::set_channels_last(tensor).unwrap();
    }
    let adam = Algorithm::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
    let settings = OptimizerSettings { learning_rate: 0.01, weight_decay: 0.01, algorithm: adam };
    let mut optimizer = Optimizer::new(settings, model.state().trainable());
    optimizer.keep_rate_on_device().unwrap();
    let averaged = model.state().entries().iter().map(|entry| (entry.name.clone(), entry.tensor.shallow_clone()));
    Replica {
        ema: Some(Ema::new(0.9, averaged.collect())),
        ddp: Ddp::new(group, &model.state().trainable(), &model.state().buffers(), DdpOptions::default()).unwrap(),
        model,
        optimizer,
        input: Input::new(&Preprocessing::for_size(SIDE as u32), Device::Cpu),
        settings: StepSettings {
            batch_size: IMAGES,
            precision: Kind::Float,
            blend: Blend { mixup, cutmix: 0.0, seed: 7 },
            side: SIDE as u32,
            rank: 0,
            clip_norm: Some(1.0),
        },
        criterion: Criterion::new(0.1, Some(vec![0.5, 2.0, 1.0]), Device::Cpu),
        classes: 3,
        scaler: None,
        device_scale: None,
        watch: Stopwatch::new(Phases::default()),
        launch: Launch::Apart(None),
    }
}

/// The batch of a step.
fn batch(number: usize) -> Batch {
    Batch {
        pixels: (0..IMAGES * (SIDE * SIDE * 3) as usize).map(|at| (at * 31 + number * 7) as u8).collect(),
        flips: vec![Flips::default(); IMAGES],
        labels: (0..IMAGES).map(|image| ((image + number) % 3) as i64).collect(),
        indices: (0..IMAGES).collect(),
        failures: Vec::new(),
    }
}

/// Sums, weights and their average after three steps.
fn trained(mixup: f64, step: impl Fn(&mut Replica<'_>, &Batch, f64, u64) -> Tensor) -> Vec<(String, Tensor)> {
    let group = Group::alone().unwrap();
    let mut replica = replica(&group, mixup);
    let mut all = Vec::new();
    for number in 0..3 {
        let batch = batch(number);
        let sums = step(&mut replica, &batch, 0.01 / (number + 1) as f64, number as u64);
        all.push((format!("sums {number}"), sums));
    }
    assert_eq!(replica.optimizer.steps(), 3);
    all.extend(replica.model.state().snapshot());
    all.extend(replica.ema.as_ref().unwrap().tensors());
    all
}

#[test]
fn what_is_recorded_of_a_step_is_what_a_step_does_to_the_last_bit() {
    for mixup in [0.0, 0.4] {
        let apart = trained(mixup, |replica, batch, rate, number| {
            replica.step(batch, 0, rate, number, || Ok(false)).unwrap().unwrap()
        });
        let whole = trained(mixup, |replica, batch, rate, number| {
            let (input, targets) = replica.taken_in(batch, 0..IMAGES, number, 0).unwrap();
            replica.optimizer.set_rate(rate).unwrap();
            let sums = replica.all_of_a_step(&input, &targets).unwrap();
            replica.optimizer.count();
            sums
        });
        for ((name, apart), (_, whole)) in apart.iter().zip(&whole) {
            assert_eq!(apart, whole, "{name} with mixup {mixup}");
        }
    }
}

#[test]
fn with_a_scale_on_the_device_a_step_is_the_same_and_the_host_hears_of_it() {
    let scaler = GradientScaler::with_interval(2);
    let made = |on_device: bool| {
        let group = Group::alone().unwrap();
        let mut replica = Replica { ema: None, scaler: Some(scaler), ..replica(&group, 0.0) };
        if on_device {
            replica.device_scale = Some(DeviceScale::new(&scaler, 0, Device::Cpu).unwrap());
        }
        let mut course = Vec::new();
        for number in 0..3 {
            let sums = replica.step(&batch(number), 0, 0.01, number as u64, || Ok(false)).unwrap().unwrap();
            let sums: Vec<f64> = Vec::try_from(&sums).unwrap();
            replica.hear(&sums[2..]).unwrap();
            course.push((sums[0], replica.scaler.unwrap(), replica.optimizer.steps()));
        }
        (course, replica.model.state().snapshot(), replica.optimizer.tensors())
    };
    assert_eq!(made(true), made(false));
}

#[test]
fn padding_is_trained_on_and_not_counted() {
    let made = |padding: usize| {
        trained(0.0, |replica, batch, rate, number| {
            replica.step(batch, padding, rate, number, || Ok(false)).unwrap().unwrap()
        })
    };
    let right = |all: &[(String, Tensor)]| Vec::<f64>::try_from(&all[0].1).unwrap();
    let (all, some, none) = (made(0), made(IMAGES - 2), made(IMAGES));
    assert_eq!(all[3..], some[3..], "the weights");
    let (all, some) = (right(&all), right(&some));
    assert!(some[0] < all[0] && some[1] <= all[1].min(2.0), "{some:?} of {all:?}");
    assert_eq!(right(&none), [0.0, 0.0]);
}

#[test]
fn where_nothing_can_be_recorded_the_step_is_made_all_the_same() {
    let made = |launch: fn() -> Launch| {
        trained(0.0, |replica, batch, rate, number| {
            if number == 0 {
                replica.launch = launch();
            }
            let sums = replica.step(batch, 0, rate, number, || Ok(false)).unwrap().unwrap();
            assert!(!replica.launch.may_record());
            sums
        })
    };
    assert_eq!(made(|| Launch::Before(0)), made(|| Launch::Apart(None)));
}
