"""One rank of PyTorch beside one of the trainer, in its benchmark `training` and in the checks on a GPU:
`bench_training.py ORDER`, where ORDER is the JSON that `trainer-image/benches/common/steps.rs` reads, with a `variant`.

Makes one optimizer step, says `first`, then for each line with a number on standard input makes so many steps and
answers with JSON: wall seconds, CPU seconds, peak resident KiB, the last loss. Variants: `default` (NCHW and DDP's and
SGD's defaults), `channels-last` (with bucket views and the fused optimizer), `compile` (that, through torch.compile).
"""

import json
import resource
import sys
import time

import torch
import torchvision

order = json.loads(sys.argv[1])
variant, device, batch, image = order["variant"], order["device"], order["batch"], order["image"]
plain = variant == "default"

if order.get("threads"):
    torch.set_num_threads(order["threads"])
torch.manual_seed(1)
images = torch.rand(batch, 3, image, image, device=device)
labels = torch.arange(batch, device=device) % order["classes"]
net = getattr(torchvision.models, order["architecture"])(num_classes=order["classes"]).to(device)
if not plain:
    net = net.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
model = net
if order["backend"] != "none":
    store = torch.distributed.TCPStore("127.0.0.1", order["port"], order["worldSize"], order["rank"] == 0)
    torch.distributed.init_process_group(
        order["backend"], store=store, rank=order["rank"], world_size=order["worldSize"]
    )
    model = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=not plain)
if variant == "compile":
    # Without a compiler for this device the graph is traced all the same.
    model = torch.compile(model, backend="inductor" if device == "cuda" else "aot_eager")
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True if not plain else None)


def step():
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=order["precision"] == "bfloat16"):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()


step().item()
print("first", flush=True)
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(int(line)):
        loss = step()
    # The last one alone: a GPU is to be waited for once, not in each step.
    loss = loss.item()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"wall": wall, "cpu": cpu, "peakKib": peak, "loss": loss}), flush=True)
