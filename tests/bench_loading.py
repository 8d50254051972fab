"""torchvision's recipe for training images, timed in turns by the benchmark `loading` of the trainer.

Each line of the input is a JSON object with a folder of class folders, the size of the model's input and a number of
epochs; the answer is the number of images that one core loads in a second of CPU time.
"""

import json
import sys
import time

import torch
from torchvision import datasets, transforms

torch.set_num_threads(1)

for line in sys.stdin:
    order = json.loads(line)
    recipe = transforms.Compose([
        transforms.RandomResizedCrop(order["size"]),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])
    images = datasets.ImageFolder(order["folder"], recipe)
    start = time.process_time()
    for _ in range(order["epochs"]):
        for image in range(len(images)):
            images[image]
    print(len(images) * order["epochs"] / (time.process_time() - start), flush=True)
