"""ResNet from a folder of JPEGs as torchvision's references/classification/train.py trains it: ImageFolder, RandomResizedCrop and
flip in worker processes, pinned batches, autocast, SGD, the loss read in each step. `reference.py ORDER` prints images a second
of the last epoch."""

import json
import sys
import time

import torch
import torchvision
from torchvision.transforms import v2

order = json.loads(sys.argv[1])
device = order["device"]
recipe = v2.Compose([
    v2.RandomResizedCrop(order["image"], antialias=True),
    v2.RandomHorizontalFlip(),
    v2.PILToTensor(),
    v2.ToDtype(torch.float, scale=True),
    v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    v2.ToPureTensor(),
])
images = torchvision.datasets.ImageFolder(order["folder"], recipe)
loader = torch.utils.data.DataLoader(
    images, batch_size=order["batch"], shuffle=True, num_workers=order["workers"], pin_memory=device == "cuda", drop_last=True
)
net = getattr(torchvision.models, order["architecture"])(num_classes=len(images.classes)).to(device)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
criterion = torch.nn.CrossEntropyLoss()
for _ in range(order["epochs"]):
    start, seen = time.perf_counter(), 0
    for batch, labels in loader:
        batch, labels = batch.to(device), labels.to(device)
        with torch.autocast(device, torch.bfloat16):
            loss = criterion(net(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        seen += len(batch)
    rate = seen / (time.perf_counter() - start)
print(rate)
