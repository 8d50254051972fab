"""torchvision's half of the comparison of the zoo: `zoo.py FOLDER WHAT`, where WHAT is

    shapes   names, shapes and types of every architecture's state dict; of some, the statistics of first weights
    compute  for each case of cases.json: random weights, images, and what they give
    files    a network's weights in the ways that programs save them
    check    that what the trainer saved loads strictly and computes what the trainer says
"""

import json
import pathlib
import sys

import safetensors.torch
import torch
import torchvision

folder = pathlib.Path(sys.argv[1])
torch.set_num_threads(1)


def build(case, device="cpu"):
    size = {"image_size": case["image"]} if case["name"] == "vit_b_16" else {}
    with torch.device(device):
        return getattr(torchvision.models, case["name"])(num_classes=case["classes"], **size)


def save(tensors, name):
    safetensors.torch.save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, folder / name)


def statistics(tensor):
    values = tensor.detach().double().flatten()
    # Where PyTorch's truncated normal draws exactly the end of its range, once in 17 million, it gives a 2 among values of
    # 0.02. That is no part of the distribution, and would be most of the kurtosis.
    values = values[(values - values.mean()).abs() <= 8 * values.std(correction=0)]
    mean = values.mean()
    variance = (values - mean).square().mean()
    fourth = (values - mean).pow(4).mean()
    return [mean.item(), variance.sqrt().item(), (fourth / variance.square()).item() if variance > 0 else 0.0]


def shapes():
    asked = json.loads((folder / "asked.json").read_text())
    result = {}
    for name in asked["all"]:
        state = build({"name": name, "classes": 7, "image": 224}, "meta").state_dict()
        result[name] = [[key, list(tensor.shape), str(tensor.dtype)] for key, tensor in state.items()]
    first = {}
    for name in asked["drawn"]:
        torch.manual_seed(1)
        state = build({"name": name, "classes": 1000, "image": 224}).state_dict()
        first[name] = {key: statistics(tensor) for key, tensor in state.items()}
    (folder / "shapes.json").write_text(json.dumps({"all": result, "drawn": first}))


def randomise(net, images):
    """Weights under which every tensor counts: no zeros, no factors of a millionth; statistics near those of the images."""
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for name, tensor in net.state_dict().items():
        if name.endswith("layer_scale"):
            tensor.uniform_(0.1, 0.5)
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.std() < 1e-3:
            tensor.normal_(0, 0.05)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    net.eval()
    for norm in norms:
        norm.train()
    net(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.running_mean += 0.1 * torch.randn_like(norm.running_mean) * norm.running_var.sqrt()
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(1.0, 1.5)


def compute():
    for case in json.loads((folder / "cases.json").read_text()):
        torch.manual_seed(7)
        net, name = build(case), case["name"]
        images = torch.randn(case["batch"], 3, case["image"], case["image"])
        labels = torch.randint(case["classes"], (case["batch"],))
        with torch.no_grad():
            randomise(net, images)
        # One way of saving for one half of the networks, the other way for the other.
        if case["pth"]:
            torch.save(net.state_dict(), folder / f"{name}.weights")
        else:
            save(net.state_dict(), f"{name}.weights")
        with torch.no_grad():
            result = {"images": images, "labels": labels, "logits": net.eval()(images)}
        if not case["gradients"]:
            save(result, f"{name}.computed")
            continue
        # What is left out at random is drawn from here on.
        torch.manual_seed(11)
        loss = torch.nn.functional.cross_entropy(net.train()(images), labels)
        loss.backward()
        result["loss"] = loss
        result |= {f"gradient.{key}": parameter.grad for key, parameter in net.named_parameters()}
        result |= {f"buffer.{key}": buffer for key, buffer in net.named_buffers()}
        save(result, f"{name}.computed")


def files():
    torch.manual_seed(3)
    net = torchvision.models.mobilenet_v3_small(num_classes=7)
    state = net.state_dict()
    save(state, "plain.safetensors")
    torch.save(state, folder / "plain.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    net.load_state_dict(torch.load(folder / "plain.pth"))
    checkpoint = {"epoch": 3, "arch": "mobilenet_v3_small", "optimizer": optimizer.state_dict(), "args": pathlib.PurePosixPath("a")}
    torch.save(checkpoint | {"state_dict": {f"module.{key}": value for key, value in state.items()}}, folder / "section.pth")
    torch.save(dict(net.named_parameters()) | dict(net.named_buffers()), folder / "parameters.pth")
    # Views: of one storage, and transposed.
    whole = torch.cat([tensor.flatten().float() for tensor in state.values()])
    views, at = {}, 0
    for key, tensor in state.items():
        views[key] = whole[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    views["features.0.0.weight"] = state["features.0.0.weight"].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    torch.save(views, folder / "views.pth")
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, folder / "half.pth")
    torch.save(net, folder / "module.pth")
    torch.save({"epoch": 3}, folder / "empty.pth")
    torch.save(state | {"extra": "text"}, folder / "text.pth")
    torch.jit.trace(net.eval(), torch.zeros(1, 3, 32, 32)).save(folder / "script.pth")

    class Evil:
        def __reduce__(self):
            return (pathlib.Path.touch, (folder / "touched",))

    torch.save(state | {"classifier.3.weight": Evil()}, folder / "evil.pth")


def check():
    for case in json.loads((folder / "cases.json").read_text()):
        name = case["name"]
        if not case["gradients"]:
            continue
        net = build(case, "meta")
        net.load_state_dict(safetensors.torch.load_file(folder / f"{name}.saved"), strict=True, assign=True)
        images = safetensors.torch.load_file(folder / f"{name}.computed")["images"]
        with torch.no_grad():
            difference = (net.eval()(images) - safetensors.torch.load_file(folder / f"{name}.said")["logits"]).abs().max()
        assert difference < 1e-4, f"{name} differs by {difference}"


{"shapes": shapes, "compute": compute, "files": files, "check": check}[sys.argv[2]]()
