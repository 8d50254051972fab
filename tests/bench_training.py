"""One rank of PyTorch in the trainer's benchmark `training`: `bench_training.py RANK PORT VARIANT`.

Makes one optimizer step, says `first`, then for each line with a number on standard input makes so many steps and
answers with wall seconds, CPU seconds and peak resident KiB. Variants: `default` (NCHW and DDP's and SGD's defaults),
`channels-last` (with bucket views and the fused optimizer), `bfloat16` (that under autocast).
"""

import resource
import sys
import time

import torch
import torchvision

RANKS, BATCH, SIZE, CLASSES = 2, 16, 128, 1000
rank, port, variant = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
plain = variant == "default"

torch.set_num_threads(1)
store = torch.distributed.TCPStore("127.0.0.1", port, RANKS, rank == 0)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
torch.manual_seed(1)
images = torch.rand(BATCH, 3, SIZE, SIZE)
labels = torch.arange(BATCH)
net = torchvision.models.resnet18(num_classes=CLASSES)
if not plain:
    net = net.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
ddp = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=not plain)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True if not plain else None)


def step():
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=variant == "bfloat16"):
        loss = torch.nn.functional.cross_entropy(ddp(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


step()
print("first", flush=True)
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(int(line)):
        step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(time.perf_counter() - wall, time.process_time() - cpu, peak, flush=True)
