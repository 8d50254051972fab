"""One rank of the comparison by PyTorch: `ddp.py FOLDER RANK PORT`. `ddp.py FOLDER init` writes what both sides start
from: the weights of each rank (they differ: DDP must make them equal) and the data."""

import contextlib
import json
import pathlib
import sys

import safetensors.torch
import torch
import torchvision
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

folder = pathlib.Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
torch.set_num_threads(1)


def model():
    return torchvision.models.resnet18(num_classes=10)


def init():
    for rank in range(job["world_size"]):
        torch.manual_seed(rank)
        safetensors.torch.save_file(model().state_dict(), folder / f"init-{rank}.safetensors")
    torch.manual_seed(99)
    count = job["steps"] * job["passes"]
    for rank in range(job["world_size"]):
        images = torch.randn(count, job["batch"], 3, job["image"], job["image"])
        labels = torch.randint(10, (count, job["batch"]))
        safetensors.torch.save_file({"images": images, "labels": labels}, folder / f"data-{rank}.safetensors")


def train(rank, port):
    store = torch.distributed.TCPStore("127.0.0.1", port, job["world_size"], rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=job["world_size"])
    net = model()
    net.load_state_dict(safetensors.torch.load_file(folder / f"init-{rank}.safetensors"))
    if job["channels_last"]:
        net = net.to(memory_format=torch.channels_last)
    ddp = torch.nn.parallel.DistributedDataParallel(
        net,
        bucket_cap_mb=job["bucket_mib"],
        find_unused_parameters=job["find_unused"],
        gradient_as_bucket_view=True,
    )
    if job["compression"] is not None:
        hooks = {"float16": default_hooks.fp16_compress_hook, "bfloat16": default_hooks.bf16_compress_hook}
        hook = hooks[job["compression"]]
        # By another name: DDP refuses the one for bfloat16 where there is no NCCL, of which it asks nothing.
        ddp.register_comm_hook(None, lambda state, bucket: hook(state, bucket))
    if job["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True, fused=True)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    data = safetensors.torch.load_file(folder / f"data-{rank}.safetensors")
    losses = []
    for step in range(job["steps"]):
        optimizer.zero_grad()
        for index in range(job["passes"]):
            images = data["images"][step * job["passes"] + index]
            labels = data["labels"][step * job["passes"] + index]
            if job["channels_last"]:
                images = images.contiguous(memory_format=torch.channels_last)
            last = index == job["passes"] - 1
            with contextlib.nullcontext() if last else ddp.no_sync():
                with torch.autocast("cpu", torch.bfloat16, enabled=job["bfloat16"]):
                    loss = torch.nn.functional.cross_entropy(ddp(images), labels) / job["passes"]
                loss.backward()
            losses.append(loss.detach())
        if job["clip"] is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), job["clip"])
        optimizer.step()
    result = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    result["losses"] = torch.stack(losses).float()
    for index, state in optimizer.state_dict()["state"].items():
        for key, tensor in state.items():
            result[f"optimizer.{index}.{key}"] = tensor.contiguous()
    safetensors.torch.save_file(result, folder / f"python-{rank}.safetensors")
    torch.distributed.destroy_process_group()


if sys.argv[2] == "init":
    init()
else:
    train(int(sys.argv[2]), int(sys.argv[3]))
