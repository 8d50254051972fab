"""PyTorch in the trainer's benchmark `scoring`: answers each line, an order as JSON, with images a second by the wall clock.

`network`: a batch of noise through a network of torchvision, by `side`: `folded` (eager, batch norms folded, channels
last), `torchscript` and `torchscript-channels-last` (traced, frozen, `optimize_for_inference`).
`files`: the images that a CSV lists, by torchvision's recipe and a DataLoader, to a CSV with the probability of each class;
imports and the building of the network are not counted. By `side`: `plain`, a network as torchvision gives it, or `folded`.
"""

import csv
import json
import os
import sys
import time

import torch
import torchvision
from PIL import Image
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import transforms

networks = {}


def fold(module):
    """Batch norms become part of the convolutions before them."""
    before = None
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.BatchNorm2d) and isinstance(before, torch.nn.Conv2d):
            setattr(module, before_name, fuse_conv_bn_eval(before, child))
            setattr(module, name, torch.nn.Identity())
        else:
            fold(child)
        before, before_name = child, name
    return module


def network(architecture, side, images):
    key = (architecture, side, tuple(images.shape))
    if key not in networks:
        net = torchvision.models.get_model(architecture).eval()
        if side == "folded":
            net = fold(net).to(memory_format=torch.channels_last)
        elif side.startswith("torchscript"):
            if side == "torchscript-channels-last":
                net = net.to(memory_format=torch.channels_last)
            net = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(net, images)))
        # A few for nothing: TorchScript optimises what it has seen.
        for _ in range(3):
            net(images)
        networks[key] = net
    return networks[key]


def laid_out(images, side):
    return images if side in ("plain", "torchscript") else images.contiguous(memory_format=torch.channels_last)


def by_network(order):
    images = laid_out(torch.rand(order["batch"], 3, order["size"], order["size"]), order["side"])
    net = network(order["architecture"], order["side"], images)
    start = time.perf_counter()
    for _ in range(order["batches"]):
        net(images)
    return order["batch"] * order["batches"] / (time.perf_counter() - start)


class Listed(torch.utils.data.Dataset):
    recipe = transforms.Compose([
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])

    def __init__(self, path):
        with open(path) as file:
            self.paths = [row["image"] for row in csv.DictReader(file)]
        self.folder = os.path.dirname(path)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = Image.open(os.path.join(self.folder, self.paths[index])).convert("RGB")
        return self.recipe(image), index


def by_files(order):
    side = order["side"]
    net = network(order["architecture"], side, laid_out(torch.rand(order["batch"], 3, 224, 224), side))
    data = Listed(order["list"])
    start = time.perf_counter()
    loader = torch.utils.data.DataLoader(data, batch_size=order["batch"], num_workers=order["workers"])
    with open(order["output"], "w") as file:
        writer = csv.writer(file)
        for images, indices in loader:
            for index, row in zip(indices, net(laid_out(images, side)).softmax(1).tolist()):
                writer.writerow([data.paths[index], max(range(len(row)), key=row.__getitem__), *row])
    return len(data) / (time.perf_counter() - start)


with torch.inference_mode():
    for line in sys.stdin:
        order = json.loads(line)
        torch.set_num_threads(order["threads"])
        print({"network": by_network, "files": by_files}[order["what"]](order), flush=True)
