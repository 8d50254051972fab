"""What PyTorch does with the cases of `optim.rs`: `optim.py FOLDER WHAT`. The cases are in `WHAT.json`, in the words of our
API; what is absent takes PyTorch's own default. Results go to `WHAT.safetensors` or `WHAT-python.json`."""

import json
import pathlib
import sys

import safetensors.torch
import torch

folder = pathlib.Path(sys.argv[1])
torch.set_num_threads(1)


def cases(what):
    return json.loads((folder / f"{what}.json").read_text())


def loss_of(parameters, data, step):
    return sum(((p * data[f"x{i}"][step]).tanh() - data[f"y{i}"][step]).pow(2).sum() for i, p in enumerate(parameters))


def weights(data):
    parameters = [data[f"p{i}"].clone() for i in range(3)]
    parameters[0] = parameters[0].contiguous(memory_format=torch.channels_last)
    return [parameter.requires_grad_() for parameter in parameters]


WORDS = {
    "learningRate": "lr",
    "weightDecay": "weight_decay",
    "epsilon": "eps",
    "learningRateDecay": "lr_decay",
}


def optimizer_of(case, parameters):
    names = {"Sgd": torch.optim.SGD, "RmsProp": torch.optim.RMSprop}
    kind = names.get(case["name"]) or getattr(torch.optim, case["name"])
    rest = {WORDS.get(key, key): value for key, value in case.items() if key not in ("name", "beta1", "beta2")}
    if "beta1" in case:
        rest["betas"] = (case["beta1"], case["beta2"])
    # The kernels that the trainer uses: fused ones, else the operations on each tensor.
    fused = case["name"] in ("Sgd", "Adam", "AdamW", "Adagrad")
    return kind(parameters, **rest, **({"fused": True} if fused else {"foreach": False}))


def optimizers():
    torch.manual_seed(7)
    shapes, steps = [(4, 3, 5, 5), (17, 3), (9,)], 200
    data = {}
    for i, shape in enumerate(shapes):
        data[f"p{i}"] = torch.randn(shape)
        data[f"x{i}"], data[f"y{i}"] = torch.randn(steps, *shape), torch.randn(steps, *shape)
    safetensors.torch.save_file(data, folder / "data.safetensors")
    result = {}
    for number, case in enumerate(cases("optimizers")):
        parameters = weights(data)
        optimizer = optimizer_of(case, parameters)
        for step in range(steps):
            optimizer.zero_grad()
            loss_of(parameters, data, step).backward()
            optimizer.step()
        for i, parameter in enumerate(parameters):
            result[f"{number}.{i}.weight"] = parameter.detach().contiguous()
        for i, state in optimizer.state_dict()["state"].items():
            for key, tensor in state.items():
                if tensor is not None:
                    result[f"{number}.{i}.{key}"] = tensor.contiguous()
    safetensors.torch.save_file(result, folder / "optimizers.safetensors")


def schedule_of(case, optimizer, steps):
    name, gamma = case["name"], case.get("gamma", 0.1)
    if name == "Step":
        return torch.optim.lr_scheduler.StepLR(optimizer, case["stepEpochs"], gamma)
    if name == "MultiStep":
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, case["milestones"], gamma)
    if name == "Exponential":
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, case["gamma"])
    if name == "Cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, case.get("minLearningRate", 0.0))
    if name == "Plateau":
        least = case.get("minLearningRate", 0.0)
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=gamma, patience=case.get("patience", 10), min_lr=least
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 0)


def rates_of(case):
    warmup, per_epoch, epochs = case["warmupSteps"], case["stepsPerEpoch"], case["epochs"]
    total = per_epoch * epochs
    new = lambda: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=case["base"])
    warm_optimizer, optimizer = new(), new()
    warm = torch.optim.lr_scheduler.LinearLR(warm_optimizer, 1 / max(warmup, 1), 1.0, max(warmup - 1, 0))
    schedule = schedule_of(case["schedule"], optimizer, total - warmup)
    by_step = case["schedule"]["name"] == "Cosine"
    rates = []
    for step in range(total):
        rates.append((warm_optimizer if step < warmup else optimizer).param_groups[0]["lr"])
        optimizer.step()
        warm_optimizer.step()
        warm.step()
        if by_step and step >= warmup:
            schedule.step()
        if (step + 1) % per_epoch == 0 and not by_step:
            loss = case["losses"][step // per_epoch]
            schedule.step(*([loss] if case["schedule"]["name"] == "Plateau" else []))
    return rates


def schedules():
    (folder / "schedules-python.json").write_text(json.dumps([rates_of(case) for case in cases("schedules")]))


def ema():
    data = safetensors.torch.load_file(folder / "ema-data.safetensors")
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(data["weight"][0].clone())
    module.register_buffer("running", data["running"][0].clone())
    average = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(cases("ema")), use_buffers=True
    )
    for step in range(len(data["weight"])):
        with torch.no_grad():
            module.weight.copy_(data["weight"][step])
            module.running.copy_(data["running"][step])
        average.update_parameters(module)
    result = {"weight": average.module.weight.detach(), "running": average.module.running}
    safetensors.torch.save_file(result, folder / "ema.safetensors")


def scaler():
    job = cases("scaler")
    data = safetensors.torch.load_file(folder / "scaler-data.safetensors")
    weight = data["start"].clone().requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cpu", growth_interval=job["interval"])
    scales, weights = [], []
    for x in data["x"]:
        optimizer.zero_grad()
        scaler.scale((weight * x).sum()).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([weight], job["clip"])
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        weights.append(weight.detach().clone())
    result = {"scales": torch.tensor(scales), "weights": torch.stack(weights)}
    safetensors.torch.save_file(result, folder / "scaler.safetensors")


globals()[sys.argv[2]]()
