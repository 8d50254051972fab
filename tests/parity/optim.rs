//! The trainer's optimizers against torch.optim: the same bytes after 200 steps, in weights and state, also when the state
//! was saved and restored on the way.

use std::collections::BTreeMap;
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use trainer::optim::{Ema, GradientScaler, Optimizer, Plateau, Schedule};
use trainer::torch;
use trainer::zoo::{host_copies, host_copy, read_safetensors, write_safetensors};

use crate::bytes;
use crate::process::script;

/// Optimizer steps of a case, as in `optim.py`.
const STEPS: i64 = 200;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("200 steps of every optimizer: same bytes as torch.optim, saved and restored or not", optimizers),
        Trial::test("every schedule: the learning rates of torch.optim.lr_scheduler, step by step", schedules),
        Trial::test("the moving average of weights: same bytes as torch's AveragedModel", moving_average),
        Trial::test(
            "scaled gradients: scales and weights of torch.amp.GradScaler, overflows and clipping included",
            scaler,
        ),
    ]
}

fn cases() -> Value {
    json!([
        {"name": "Sgd", "learningRate": 0.02, "weightDecay": 0.0001, "momentum": 0.0},
        {"name": "Sgd", "learningRate": 0.02, "weightDecay": 0.0001, "momentum": 0.9},
        {"name": "Sgd", "learningRate": 0.02, "weightDecay": 0.01, "momentum": 0.9, "nesterov": true},
        {"name": "Adam"},
        {"name": "Adam", "learningRate": 0.01, "weightDecay": 0.02, "beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6},
        {"name": "AdamW"},
        {"name": "AdamW", "learningRate": 0.01, "weightDecay": 0.1},
        {"name": "RmsProp"},
        {"name": "RmsProp", "learningRate": 0.003, "weightDecay": 0.02, "momentum": 0.9, "alpha": 0.9},
        {"name": "Adamax"},
        {"name": "Adamax", "learningRate": 0.01, "weightDecay": 0.02, "beta1": 0.8, "beta2": 0.99},
        {"name": "Adagrad"},
        {"name": "Adagrad", "learningRate": 0.1, "weightDecay": 0.02, "learningRateDecay": 0.01},
        {"name": "Adadelta"},
        {"name": "Adadelta", "learningRate": 0.5, "weightDecay": 0.02, "rho": 0.8, "epsilon": 1e-5},
    ])
}

pub(crate) fn read(folder: &Path, file: &str) -> Result<BTreeMap<String, Tensor>, Failed> {
    Ok(read_safetensors(&std::fs::read(folder.join(file))?)?)
}

fn optimizers() -> Result<(), Failed> {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    let cases = cases();
    std::fs::write(folder.path().join("optimizers.json"), cases.to_string())?;
    script("optim.py", folder.path(), &["optimizers"])?;
    let data = read(folder.path(), "data.safetensors")?;
    let theirs = std::fs::read(folder.path().join("optimizers.safetensors"))?;
    for restored_at in [None, Some(1), Some(STEPS / 2)] {
        let mut ours = Vec::new();
        for (number, case) in cases.as_array().into_iter().flatten().enumerate() {
            let named = |(name, tensor)| (format!("{number}.{name}"), tensor);
            ours.extend(train(case, &data, restored_at)?.into_iter().map(named));
        }
        bytes::compare(&write_safetensors(&ours)?, &theirs)
            .map_err(|text| format!("restored at {restored_at:?}: {text}"))?;
    }
    Ok(())
}

/// Weights and state after all steps; at `restored_at` everything goes through a checkpoint's bytes into a new optimizer.
fn train(
    case: &Value,
    data: &BTreeMap<String, Tensor>,
    restored_at: Option<i64>,
) -> Result<Vec<(String, Tensor)>, Failed> {
    let settings = serde_json::from_value::<crds::optimizer::Optimizer>(case.clone())?.settings();
    let start = (0..3).map(|index| (index.to_string(), data[&format!("p{index}")].copy())).collect();
    let (mut parameters, mut optimizer) = begin(settings, start)?;
    for step in 0..STEPS {
        if restored_at == Some(step) {
            let weights = write_safetensors(&snapshot(&parameters))?;
            let state = write_safetensors(&host_copies(optimizer.tensors()))?;
            let done = optimizer.steps();
            (parameters, optimizer) = begin(settings, read_safetensors(&weights)?.into_iter().collect())?;
            optimizer.restore(&read_safetensors(&state)?, done)?;
        }
        let tensors: Vec<&Tensor> = parameters.iter().map(|(_, tensor)| tensor).collect();
        torch::clear_gradients(&tensors)?;
        torch::backward(&loss(&tensors, data, step))?;
        optimizer.step(settings.learning_rate)?;
    }
    let mut result: Vec<_> =
        snapshot(&parameters).into_iter().map(|(name, tensor)| (format!("{name}.weight"), tensor)).collect();
    result.extend(host_copies(optimizer.tensors()));
    Ok(result)
}

type Named = Vec<(String, Tensor)>;

fn begin(settings: crds::optimizer::OptimizerSettings, parameters: Named) -> Result<(Named, Optimizer), Failed> {
    let mut ready = Vec::new();
    for (name, tensor) in parameters {
        torch::set_channels_last(&tensor)?;
        ready.push((name, tensor.set_requires_grad(true)));
    }
    let aliases = ready.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    Ok((ready, Optimizer::new(settings, aliases)))
}

fn snapshot(parameters: &[(String, Tensor)]) -> Named {
    parameters.iter().map(|(name, tensor)| (name.clone(), host_copy(tensor))).collect()
}

fn loss(parameters: &[&Tensor], data: &BTreeMap<String, Tensor>, step: i64) -> Tensor {
    let parts = parameters.iter().enumerate().map(|(index, parameter)| {
        let (x, y) = (data[&format!("x{index}")].get(step), data[&format!("y{index}")].get(step));
        ((*parameter * x).tanh() - y).pow_tensor_scalar(2).sum(Kind::Float)
    });
    parts.reduce(|sum, part| sum + part).expect("there are parameters")
}

fn schedules() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let schedules = [
        json!({"name": "Constant"}),
        json!({"name": "Step", "stepEpochs": 4, "gamma": 0.3}),
        json!({"name": "MultiStep", "milestones": [3, 7, 8], "gamma": 0.2}),
        json!({"name": "Exponential", "gamma": 0.9}),
        json!({"name": "Cosine"}),
        json!({"name": "Cosine", "minLearningRate": 0.01}),
        json!({"name": "Plateau", "patience": 1, "gamma": 0.5}),
        json!({"name": "Plateau", "patience": 0, "gamma": 0.1, "minLearningRate": 0.002}),
    ];
    let losses = [2.0, 1.5, 1.4999, 1.49, 1.6, 1.6, 1.2, 1.3, 1.3, 1.3, 1.3, 1.3];
    let mut cases = Vec::new();
    for (schedule, warmup) in schedules.iter().flat_map(|schedule| [0, 1, 7].map(|warmup| (schedule, warmup))) {
        cases.push(json!({"schedule": schedule, "base": 0.3, "warmupSteps": warmup, "stepsPerEpoch": 9,
                          "epochs": losses.len(), "losses": losses}));
    }
    std::fs::write(folder.path().join("schedules.json"), Value::from(cases.clone()).to_string())?;
    script("optim.py", folder.path(), &["schedules"])?;
    let theirs: Vec<Vec<f64>> = serde_json::from_slice(&std::fs::read(folder.path().join("schedules-python.json"))?)?;
    for (case, theirs) in cases.iter().zip(theirs) {
        let ours = rates(case, &losses)?;
        // torch goes from rate to rate, ours are closed forms: they differ in the last digits.
        let differs = |(ours, theirs): (&f64, &f64)| (ours - theirs).abs() > 1e-13;
        if ours.len() != theirs.len() || ours.iter().zip(&theirs).any(differs) {
            return Err(format!("{case}\nours   {ours:?}\ntheirs {theirs:?}").into());
        }
    }
    Ok(())
}

fn rates(case: &Value, losses: &[f64]) -> Result<Vec<f64>, Failed> {
    let number = |name: &str| case[name].as_u64().expect("a number");
    let (steps_per_epoch, epochs) = (number("stepsPerEpoch"), number("epochs"));
    let schedule = Schedule {
        base: case["base"].as_f64().expect("a number"),
        warmup_steps: number("warmupSteps"),
        steps_per_epoch,
        total_steps: steps_per_epoch * epochs,
        settings: serde_json::from_value::<crds::schedule::Schedule>(case["schedule"].clone())?.settings(),
    };
    let mut plateau = Plateau::default();
    let mut rates = Vec::new();
    for (epoch, loss) in losses.iter().enumerate() {
        let first = epoch as u64 * steps_per_epoch;
        rates.extend((first..first + steps_per_epoch).map(|step| schedule.rate(step, &plateau)));
        schedule.observe(&mut plateau, *loss);
        plateau = serde_json::from_str(&serde_json::to_string(&plateau)?)?;
    }
    Ok(rates)
}

fn moving_average() -> Result<(), Failed> {
    const DECAY: f64 = 0.93;
    let folder = tempfile::tempdir()?;
    tch::manual_seed(3);
    let course = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let (weights, running) = (course(&[40, 7, 3]), course(&[40, 11]));
    let data = [("weight".to_owned(), weights.shallow_clone()), ("running".to_owned(), running.shallow_clone())];
    std::fs::write(folder.path().join("ema-data.safetensors"), write_safetensors(&data)?)?;
    std::fs::write(folder.path().join("ema.json"), json!(DECAY).to_string())?;
    script("optim.py", folder.path(), &["ema"])?;

    let model = [("weight", weights.get(0).copy().set_requires_grad(true)), ("running", running.get(0).copy())];
    let named =
        || -> Named { model.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone())).collect() };
    let mut ema = Ema::new(DECAY, named());
    for step in 0..40 {
        tch::no_grad(|| {
            model[0].1.shallow_clone().copy_(&weights.get(step));
            model[1].1.shallow_clone().copy_(&running.get(step));
        });
        if step == 17 {
            let saved = write_safetensors(&host_copies(ema.tensors()))?;
            ema = Ema::new(DECAY, named());
            ema.restore(&read_safetensors(&saved)?)?;
        }
        ema.update()?;
    }
    bytes::compare(
        &write_safetensors(&host_copies(ema.tensors()))?,
        &std::fs::read(folder.path().join("ema.safetensors"))?,
    )?;
    Ok(())
}

fn scaler() -> Result<(), Failed> {
    const INTERVAL: u32 = 4;
    const CLIP: f64 = 1.5;
    let folder = tempfile::tempdir()?;
    tch::manual_seed(4);
    let start = Tensor::randn([9], (Kind::Float, Device::Cpu));
    let x = Tensor::randn([30, 9], (Kind::Float, Device::Cpu));
    for (step, value) in [(2, f64::INFINITY), (3, f64::NAN), (12, f64::NEG_INFINITY), (25, 1e36)] {
        let _ = x.get(step).get(5).fill_(value);
    }
    let data = [("start".to_owned(), start.shallow_clone()), ("x".to_owned(), x.shallow_clone())];
    std::fs::write(folder.path().join("scaler-data.safetensors"), write_safetensors(&data)?)?;
    std::fs::write(folder.path().join("scaler.json"), json!({"interval": INTERVAL, "clip": CLIP}).to_string())?;
    script("optim.py", folder.path(), &["scaler"])?;

    let weight = start.copy().set_requires_grad(true);
    let settings = json!({"name": "Sgd", "learningRate": 0.1, "momentum": 0.9, "weightDecay": 0.0});
    let settings = serde_json::from_value::<crds::optimizer::Optimizer>(settings)?.settings();
    let mut optimizer = Optimizer::new(settings, vec![("weight".to_owned(), weight.shallow_clone())]);
    let mut scaler = GradientScaler::with_interval(INTERVAL);
    let (mut scales, mut weights) = (Vec::new(), Vec::new());
    for step in 0..30 {
        torch::clear_gradients(&[&weight])?;
        let loss = (&weight * x.get(step)).sum(Kind::Float);
        torch::backward(&loss.f_mul_scalar(f64::from(scaler.scale()))?)?;
        let overflowed = optimizer.unscale(scaler.inverse())?;
        if !overflowed {
            optimizer.clip(CLIP)?;
            optimizer.step(settings.learning_rate)?;
        }
        scaler.update(overflowed);
        scaler = serde_json::from_str(&serde_json::to_string(&scaler)?)?;
        scales.push(scaler.scale());
        weights.push(host_copy(&weight));
    }
    let theirs = read(folder.path(), "scaler.safetensors")?;
    if Tensor::from_slice(&scales) != theirs["scales"] {
        return Err(format!("the scales {scales:?} are not those of {}", theirs["scales"]).into());
    }
    // The norm that gradients are clipped to is summed in another order.
    let apart = (Tensor::stack(&weights, 0) - &theirs["weights"]).abs().max().double_value(&[]);
    if apart < 1e-6 { Ok(()) } else { Err(format!("the weights differ by up to {apart}").into()) }
}
