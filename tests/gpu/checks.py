"""The checks of `run`, each a function that adds lines to a table."""

import contextlib
import csv
import glob
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile

import safetensors.torch
import torch
import torchvision

here = pathlib.Path(__file__).resolve().parent
ALL = {}


def check(function):
    ALL[function.__name__] = function
    return function


class Place:
    """Where the checks run: the programs, their environment, the sizes."""

    def __init__(self, pack, root, smoke):
        self.pack, self.root, self.smoke = pack, root, smoke
        self.device = "cpu" if smoke else "cuda"
        if not smoke and not torch.cuda.is_available():
            sys.exit("no GPU is here: tests/gpu/run --cpu-smoke sees whether the script works")
        for program in ["bin/trainer", "bin/gpu"] + ([] if smoke else ["lib/libtrainyard_cuda.so"]):
            if not (pack / program).exists():
                sys.exit(f"{pack / program} is not there: run tests/gpu/pack (make gpu-checks) first")
        site = sysconfig.get_path("purelib")
        libraries = [str(pathlib.Path(torch.__file__).parent / "lib")] + glob.glob(f"{site}/nvidia/*/lib")
        before = os.environ.get("LD_LIBRARY_PATH")
        self.environment = os.environ | {"LD_LIBRARY_PATH": ":".join(libraries + ([before] if before else []))}
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="trainyard-gpu-"))

    def about(self):
        about = {"torch": torch.__version__, "torchvision": torchvision.__version__, "cpus": os.cpu_count()}
        if self.smoke:
            return about | {"smoke": True, "note": "on CPUs with the least sizes: nothing here is a measurement"}
        driver = run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
        return about | {"gpu": driver.strip(), "cuda": torch.version.cuda}

    def size(self, full, smoke):
        """A size, or the one by which the script is tried out."""
        return smoke if self.smoke else full

    def program(self, *arguments, environment=None):
        return run([self.pack / "bin" / arguments[0], *arguments[1:]], self.environment | (environment or {}))


def run(command, environment=None):
    """The standard output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Ranks:
    """The ranks of one side, which make steps when they are told to."""

    def __init__(self, place, variant, architecture, batch, image, backend="none", world=1, precision="bfloat16", graphs=False):
        port = free_port()
        self.ranks, self.batch, self.world = [], batch, world
        for rank in range(world):
            order = {
                "architecture": architecture, "batch": batch, "image": image, "classes": 1000, "precision": precision,
                "device": place.device, "backend": backend, "rank": rank, "worldSize": world, "port": port,
                "variant": variant, "threads": 1 if place.smoke else None, "graphs": graphs,
            }
            if variant == "ours":
                program, environment = [place.pack / "bin/gpu", "rank"], place.environment
            else:
                program, environment = [sys.executable, place.root / "tests/bench_training.py"], os.environ
            self.ranks.append(subprocess.Popen(
                [*map(str, program), json.dumps(order)], env=environment, text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ))
        for rank in self.ranks:
            if rank.stdout.readline().strip() != "first":
                raise RuntimeError(f"a rank of {variant} {architecture} did not make its first step")

    def steps(self, count):
        for rank in self.ranks:
            print(count, file=rank.stdin, flush=True)
        answers = []
        for rank in self.ranks:
            line = rank.stdout.readline()
            if not line:
                raise RuntimeError(f"a rank ended with {rank.wait()}")
            answers.append(json.loads(line))
        return answers

    def rate(self, count):
        """Images a second."""
        return self.batch * self.world * count / max(answer["wall"] for answer in self.steps(count))

    def memory(self):
        """Bytes that the first rank holds on the GPU, by the driver's count; none where there is no GPU."""
        with contextlib.suppress(OSError, RuntimeError):
            for line in run(["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]).splitlines():
                pid, mib = line.split(",")
                if int(pid) == self.ranks[0].pid:
                    return float(mib) / 1024
        return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for rank in self.ranks:
            rank.stdin.close()
        for rank in self.ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                rank.wait(10)
            rank.kill()
            rank.wait()


def in_turns(place, ours, peer, steps):
    """Pairs of images a second of two sides that take turns."""
    turns, steps = place.size(5, 2), place.size(steps, 1)
    # A turn for nothing: buckets are rebuilt, algorithms chosen, graphs compiled.
    ours.steps(place.size(10, 1)), peer.steps(place.size(10, 1))
    return [(ours.rate(steps), peer.rate(steps)) for _ in range(turns)]


@check
def preflight(place, table):
    """trainer preflight: every check passes, and how long it takes."""
    report = json.loads(place.program("trainer", "preflight", "--json"))
    wanted = place.size("Gpu", "Cpu")
    table.said("preflight chooses the device", report["device"] == wanted, f"{report['device']}: {report['reason']}")
    for one in report["checks"]:
        if not place.smoke:
            table.said(f"preflight: {one['name']}", one["result"] != "Failed", f"{one['result']}: {one['message']}")
    seconds = sum(one["milliseconds"] for one in report["checks"]) / 1000
    table.alone("preflight takes", "s", seconds, at_most=place.size(10, 1))


@check
def nccl(place, table):
    """NCCL at world 1, through the trainer's own group: steps are made, and the loss is a number."""
    if place.smoke:
        return table.left_out("NCCL at world 1", "it needs a GPU")
    with Ranks(place, "ours", "resnet18", 8, 64, backend="nccl") as ranks:
        [answer] = ranks.steps(3)
    table.said("NCCL at world 1", answer["loss"] == answer["loss"], f"loss {answer['loss']:.4f} after 4 steps")


@check
def step(place, table):
    """One step of ResNet-50 in bfloat16: logits, gradients and weights are PyTorch's within its rounding."""
    for precision, limit in [("float32", 5e-3), ("bfloat16", 5e-2)]:
        folder = place.folder / f"step-{precision}"
        folder.mkdir()
        image, batch = place.size(224, 32), place.size(32, 2)
        job = {"architecture": place.size("resnet50", "resnet18"), "classes": 10, "image": image, "precision": precision}
        (folder / "job.json").write_text(json.dumps(job | {"device": place.device}))
        theirs = python_step(folder, job, place.device, batch)
        place.program("gpu", "step", folder)
        ours = safetensors.torch.load_file(folder / "ours.safetensors")
        worst = max(
            ((ours[name].double() - tensor.double()).norm() / tensor.double().norm().clamp(min=1e-12), name)
            for name, tensor in theirs.items()
        )
        method = f"the largest, {worst[1]}, of logits, loss, gradients and weights after SGD; same weights and images"
        figure = f"a step in {precision}, apart from PyTorch's by"
        table.alone(figure, "of a tensor's norm", worst[0].item(), at_most=limit, method=method)


@check
def sync_norm(place, table):
    """Batch norms over all ranks (syncBatchNorm), forward and backward, in both memory formats: over one rank they are libtorch's own."""
    apart = float(place.program("gpu", "norm", json.dumps({"device": place.device})))
    method = "the largest difference of outputs, gradients and statistics, NCHW and channels-last, float32, by Gloo"
    table.alone("a batch norm over all ranks, apart from libtorch's own by", "", apart, at_most=1e-3, method=method)


def python_step(folder, job, device, batch):
    torch.manual_seed(5)
    net = getattr(torchvision.models, job["architecture"])(num_classes=job["classes"])
    safetensors.torch.save_file(net.state_dict(), folder / "init.safetensors")
    images = torch.randn(batch, 3, job["image"], job["image"])
    labels = torch.arange(batch) % job["classes"]
    safetensors.torch.save_file({"images": images, "labels": labels}, folder / "data.safetensors")
    net = net.to(device).to(memory_format=torch.channels_last)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    with torch.autocast(device, torch.bfloat16, enabled=job["precision"] == "bfloat16"):
        logits = net(images)
    loss = torch.nn.functional.cross_entropy(logits.float(), labels.to(device))
    loss.backward()
    result = {"logits": logits.float(), "loss": loss}
    result |= {f"gradient.{name}": parameter.grad for name, parameter in net.named_parameters()}
    optimizer.step()
    result |= {f"after.{name}": tensor for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in result.items()}


def against(place, table, name, architecture, batch, peer, goal, steps, graphs=False):
    image = place.size(224, 32)
    batch = place.size(batch, 2)
    architecture = architecture if not place.smoke or architecture != "resnet50" else "resnet18"
    job = (architecture, batch, image)
    with Ranks(place, "ours", *job, graphs=graphs) as ours, Ranks(place, peer, *job) as theirs:
        pairs = in_turns(place, ours, theirs, steps)
        method = f"{architecture}, bfloat16, batch {batch}, {image} px, images on the device, fused SGD, channels-last; in turns"
        how = ", by CUDA graphs" if graphs else ""
        table.pairs(f"{name} batch {batch}{how}, against PyTorch {peer}", "images/s", pairs, goal, method)
        if not graphs and peer == "channels-last" and (memory := ours.memory()) and (other := theirs.memory()):
            table.alone(f"{name} batch {batch}: memory on the GPU, of PyTorch's", "x", memory / other, at_most=1.05,
                        method=f"{memory:.2f} and {other:.2f} GiB by nvidia-smi, caches of the allocators included")


@check
def resnet50(place, table):
    """ResNet-50 batch 256 on images that are there, against PyTorch eager; its memory."""
    against(place, table, "ResNet-50", "resnet50", 256, "channels-last", place.size(1.0, None), 20)


@check
def compile(place, table):
    """The same against torch.compile."""
    against(place, table, "ResNet-50", "resnet50", 256, "compile", place.size(0.95, None), 20)


@check
def small(place, table):
    """ResNet-18 batch 32 and EfficientNet-B0 batch 64, where handing over the work is what takes time."""
    graphs = not place.smoke
    against(place, table, "ResNet-18", "resnet18", 32, "channels-last", place.size(1.5, None), 60, graphs)
    against(place, table, "EfficientNet-B0", "efficientnet_b0", 64, "channels-last", place.size(1.5, None), 40, graphs)


@check
def reducer(place, table):
    """The Reducer with NCCL at world 1 against no DDP at all."""
    backend, architecture = place.size("nccl", "gloo"), place.size("resnet50", "resnet18")
    batch, image = place.size(256, 2), place.size(224, 32)
    job = (place, "ours", architecture, batch, image)
    with Ranks(*job, backend=backend) as with_ddp, Ranks(*job) as bare:
        pairs = in_turns(place, with_ddp, bare, 20)
    table.pairs(f"DDP by {backend} at world 1, against none", "images/s", pairs, place.size(0.98, None), "ours on both sides")


@check
def shared(place, table):
    """Two ranks on one GPU over Gloo: both hold the same weights after some steps."""
    image = place.size(128, 32)
    with Ranks(place, "ours", "resnet18", place.size(32, 2), image, backend="gloo", world=2) as ranks:
        answers = ranks.steps(place.size(10, 2))
    same = answers[0]["digest"] == answers[1]["digest"]
    losses = " and ".join(f"{answer['loss']:.4f}" for answer in answers)
    table.said("two ranks on one device over Gloo: same weights", same, f"losses {losses}")


def assignment(kind, name, spec):
    return json.dumps({
        "contractVersion": 1, "kind": kind, "name": name, "namespace": "default", "uid": f"uid-{name}", "attempt": 1,
        "member": 0, "members": 1, "spec": spec,
    })


def job(place, kind, name, spec):
    """Runs a job as a pod does; its output."""
    environment = {
        "TRAINYARD_ASSIGNMENT": assignment(kind, name, spec), "TRAINYARD_PROGRESS_PORT": "0", "PET_NPROC_PER_NODE": "1",
        "TRAINYARD_TERMINATION_LOG": str(place.folder / f"{name}.termination"), "TORCHELASTIC_RUN_ID": name,
    }
    place.program("trainer", "launch", environment=environment)
    return pathlib.Path(spec["output"]["uri"].removeprefix("file://"))


def photos(place):
    """A folder of two classes of photos, the same files again and again under other names: decoding is what costs."""
    folder = place.folder / "photos"
    if folder.exists():
        return folder
    made = pathlib.Path(place.program("gpu", "photos", place.folder / "made", str(place.size(384, 4))).splitlines()[-1])
    for image in sorted(made.glob("*/*.jpg")):
        target = folder / image.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for copy in range(place.size(40, 3)):
            os.link(image, target / f"{image.stem}-{copy}.jpg")
    return folder


def training(place, output, **more):
    spec = {
        "model": {"architecture": place.size("resnet50", "resnet18")},
        "data": {"uri": f"file://{photos(place)}", "imageSize": place.size(224, 32), "validation": {"fraction": 0}},
        "training": {"epochs": place.size(3, 2), "batchSize": place.size(256, 2), "precision": "BFloat16",
                     "optimizer": {"name": "Sgd", "learningRate": 0.01}},
        "infrastructure": {"device": place.size("Gpu", "Cpu")},
        "output": {"uri": f"file://{place.folder / output}", "checkpoint": {"everySteps": 1_000_000}},
    }
    for path, value in more.items():
        *above, last = path.split("_")
        part = spec
        for key in above:
            part = part[key]
        part[last] = value
    return spec


@check
def end_to_end(place, table):
    """ResNet-50 from JPEGs as a pod trains it, against images on the device, and against torchvision's reference recipe."""
    output = job(place, "TrainingJob", "jpegs", training(place, "jpegs"))
    epochs = json.loads((output / "metrics.json").read_text())["epochs"]
    # The first epoch warms up.
    ours = epochs[-1]["imagesPerSecond"]
    with Ranks(place, "ours", place.size("resnet50", "resnet18"), place.size(256, 2), place.size(224, 32)) as bare:
        bare.steps(place.size(10, 1))
        synthetic = bare.rate(place.size(40, 1))
    method = f"the last of {len(epochs)} epochs of {len(list(photos(place).glob('*/*.jpg')))} JPEGs of 500 x 375, crop and flip"
    table.pairs("from JPEGs, against images on the device", "images/s", [(ours, synthetic)], place.size(0.97, None), method)
    order = {"folder": str(photos(place)), "architecture": place.size("resnet50", "resnet18"), "image": place.size(224, 32),
             "batch": place.size(256, 2), "workers": place.size(16, 1), "epochs": place.size(2, 1), "device": place.device}
    theirs = float(run([sys.executable, here / "reference.py", json.dumps(order)]).split()[-1])
    table.pairs("from JPEGs, against torchvision's recipe", "images/s", [(ours, theirs)], place.size(1.5, None),
                f"{method}; peer: references/classification's loaders and loop, bfloat16, {order['workers']} workers")


@check
def graphs(place, table):
    """Steps as CUDA graphs: a training's losses are the same to the last bit with and without, and what they are faster by."""
    losses, told = {}, {}
    # A learning rate that 32 bits have exactly: with graphs the GPU knows it so.
    more = {"training_optimizer": {"name": "Sgd", "learningRate": 2**-7}, "training_schedule": {"name": "Constant"},
            "training_deterministic": True, "training_batchSize": place.size(64, 2), "training_epochs": 2,
            "model_architecture": place.size("efficientnet_b0", "resnet18")}
    for setting in ["Auto", "Never"]:
        name = f"graphs-{setting.lower()}"
        output = job(place, "TrainingJob", name, training(place, name, training_cudaGraphs=setting, **more))
        losses[setting] = [epoch["trainLoss"] for epoch in json.loads((output / "metrics.json").read_text())["epochs"]]
        told[setting] = "as a whole (CUDA graph)" in (output / "report.html").read_text()
    same = losses["Auto"] == losses["Never"]
    table.said("training with CUDA graphs: the losses are those without", same, f"{losses['Auto']} and {losses['Never']}")
    if place.smoke:
        return table.left_out("steps as CUDA graphs", "they need a GPU")
    table.said("the report tells of CUDA graphs", told == {"Auto": True, "Never": False}, str(told))
    against(place, table, "ResNet-50", "resnet50", 256, "channels-last", 1.10, 20, graphs=True)


@check
def checkpoints(place, table):
    """What checkpoints take of the time of steps, one at every 50."""
    every = place.size(50, 2)
    output = job(place, "TrainingJob", "saved", training(place, "saved", output_checkpoint={"everySteps": every, "keep": 2}))
    phases = [epoch["phases"] for epoch in json.loads((output / "metrics.json").read_text())["epochs"]]
    seconds = lambda *names: sum(epoch[name] for epoch in phases for name in names)
    stall = 100 * seconds("checkpoint") / seconds("data", "forward", "backward", "device", "optimizer", "checkpoint")
    table.alone(f"time of steps that checkpoints take, one every {every}", "%", stall, at_most=place.size(1, None))


@check
def scoring(place, table):
    """Scoring on the GPU: the same classes as on the CPU, and how fast."""
    model = place.folder / "jpegs"
    if not (model / "model.json").exists():
        job(place, "TrainingJob", "jpegs", training(place, "jpegs"))
    few = place.folder / "few"
    for image in sorted(photos(place).glob("*/*-0.jpg"))[: place.size(128, 4)]:
        few.mkdir(exist_ok=True)
        shutil.copy(image, few / f"{image.parent.name}-{image.name}")
    rows = {}
    for device in [place.size("Gpu", "Cpu"), "Cpu"]:
        name = f"scores-{len(rows)}"
        output = job(place, "ScoringJob", name, {
            "model": {"uri": f"file://{model}"}, "data": {"uri": f"file://{few}"}, "batchSize": 32, "precision": "Float32",
            "infrastructure": {"device": device}, "output": {"uri": f"file://{place.folder / name}", "format": "Csv"},
        })
        [table_file] = output.glob("*.csv")
        rows[name] = list(csv.DictReader(table_file.open()))
    first, second = rows.values()
    numbers = lambda rows: [float(value) for row in rows for name, value in row.items() if name.startswith("p_")]
    apart = max(abs(ours - theirs) for ours, theirs in zip(numbers(first), numbers(second), strict=True))
    method = f"{len(first)} images, float32"
    table.alone("scores on the GPU, apart from the CPU's by", "probability", apart, at_most=0.02, method=method)
