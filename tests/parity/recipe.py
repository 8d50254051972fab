"""What torchvision and PyTorch make of the cases of `recipe.rs`: `recipe.py FOLDER WHAT`."""

import json
import pathlib
import sys

import safetensors.torch
import torch
from torchvision.transforms import v2

folder = pathlib.Path(sys.argv[1])
torch.set_num_threads(1)


def losses():
    data = safetensors.torch.load_file(folder / "data.safetensors")
    logits, images, labels = data["logits"], data["images"], data["labels"]
    count, classes = logits.shape
    result = {}
    for number, case in enumerate(json.loads((folder / "losses.json").read_text())):
        blended, targets = images, labels
        if case["blend"]:
            transform = {"Mixup": v2.MixUp, "Cutmix": v2.CutMix}[case["blend"]](num_classes=classes)
            draws = iter(case["middle"])
            randint = torch.randint
            torch.randint = lambda bound, size: torch.tensor([next(draws)])
            transform._dist.sample = lambda shape: torch.tensor(case["share"])
            blended, targets = transform(images, labels)
            torch.randint = randint
        weight = torch.tensor(case["weights"]) if case["weights"] else None
        loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=case["smoothing"])
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, targets)
        value.backward()
        result[f"{number}.images"] = blended.clone(memory_format=torch.contiguous_format)
        result[f"{number}.loss"] = value.detach()
        result[f"{number}.gradient"] = leaf.grad
    safetensors.torch.save_file(result, folder / "losses.safetensors")


def operations():
    images = safetensors.torch.load_file(folder / "images.safetensors")
    policies = {"RandAugment": v2.RandAugment(), "TrivialAugment": v2.TrivialAugmentWide()}
    result, magnitudes = {}, []
    for number, (policy, name, bin, negative, side) in enumerate(json.loads((folder / "operations.json").read_text())):
        policy = policies[policy]
        space, signed = policy._AUGMENTATION_SPACE[name]
        all_of_it = space(31, side, side)
        magnitude = 0.0 if all_of_it is None else float(all_of_it[bin])
        magnitudes.append([magnitude, signed])
        image = images[str(side)].permute(2, 0, 1)
        changed = policy._apply_image_or_video_transform(
            image, name, -magnitude if negative else magnitude, interpolation=policy.interpolation, fill=policy._fill
        )
        result[str(number)] = changed.permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
    safetensors.torch.save_file(result, folder / "operations.safetensors")
    (folder / "magnitudes.json").write_text(json.dumps(magnitudes))


globals()[sys.argv[2]]()
