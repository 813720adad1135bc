"""Images per second of the training step, against the same step in straightforward PyTorch.

    python -m benchmarks.train_step --preset cifar10 --threads 2

Every variant trains on the same random batch in a process of its own; after warm-up, the median of the timed
steps counts. Prints a table and, as its last line, JSON.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.plain import PlainTrainer
from benchmarks.report import about, machine
from icgan_training.distributed import ALONE
from icgan_training.fit.augment import UNIFORMS
from icgan_training.fit.inputs import Inputs, StepInputs
from icgan_training.fit.sampler import Batch
from icgan_training.fit.step import Trainer
from icgan_training.networks.config import ModelConfig, TrainConfig
from icgan_training.networks.presets import preset

WARM_UP = 2

VARIANTS = {
    "plain": None,
    "ours float32": {"channels_last": False},
    "ours float32, channels last": {"channels_last": True},
    "ours bfloat16": {"channels_last": False, "precision": "bfloat16"},
    "ours bfloat16, channels last": {"channels_last": True, "precision": "bfloat16"},
    "ours bfloat16, channels last, compiled": {
        "channels_last": True,
        "precision": "bfloat16",
        "compile": True,
    },
}


def prepare(name: str, model: ModelConfig, train: TrainConfig, device: torch.device) -> Callable[[], object]:
    """A function that runs one training step of the variant."""
    rng = np.random.default_rng(0)
    count, side = train.batch_size, model.resolution
    image = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    embedding = F.normalize(torch.randn(count, model.embedding_dim or 1), dim=1)
    noise = torch.randn(count, model.dim_z)
    changes = VARIANTS[name]
    if model.discriminator != "pixels":
        raise SystemExit("the plain step has the published discriminator: choose a preset that has it, too")
    if changes is None:
        plain = PlainTrainer(model, train, device)
        data = torch.from_numpy(image).to(device), embedding.to(device), noise.to(device)
        return lambda: plain.step(*data)
    trainer = Trainer(model, replace(train, **changes), device, ALONE)
    uniforms = rng.random((count, UNIFORMS), dtype=np.float32)
    real = Batch(image, embedding.numpy(), None, noise.numpy(), uniforms)
    fake = replace(real, image=None)
    parts = [Inputs.of(batch, model, pin=False) for batch in (real, fake)]
    steps = iter(range(1, 1_000_000))
    return lambda: trainer.step(StepInputs([[(parts[0], parts[1])]], [parts[1]]).to(device), next(steps))


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Images per second and peak memory of one variant, in this process."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    chosen, device = preset(args.preset), torch.device(args.device)
    # Augmentation and a second D step cost both sides the same; they are left out of the comparison.
    train = replace(
        chosen.train, batch_size=args.batch, diffaugment=(), discriminator_steps=1, accumulation=1
    )
    step = prepare(args.variant, chosen.model, train, device)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    times: list[float] = []
    for i in range(WARM_UP + args.steps):
        start = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= WARM_UP:
            times.append(clock() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    return {"images_per_second": args.batch / statistics.median(times), "peak_mib": peak}


def hardware(device: str) -> str:
    """The GPU's name or the processor's."""
    return machine() if device == "cpu" else torch.cuda.get_device_name(device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="cifar10", help="an instance-conditioned preset")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each variant")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: processor time, for one thread on a machine that others use too",
    )
    parser.add_argument("--compiled", action="store_true", help="also measure torch.compile")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args)))
        return
    rows: dict[str, dict[str, float]] = {}
    print(f"{'variant':42} images/s  of plain  peak MiB")
    for name in VARIANTS:
        if "compiled" in name and not args.compiled:
            continue
        command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--variant", name]
        row = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        rows[name] = {key: round(value, 2) for key, value in row.items()}
        ratio = row["images_per_second"] / rows["plain"]["images_per_second"]
        print(f"{name:42} {row['images_per_second']:8.2f} {ratio:9.2f} {row['peak_mib']:9.0f}", flush=True)
    result = about("benchmarks.train_step", ["torch"], hardware(args.device))
    result |= {key: getattr(args, key) for key in ("preset", "batch", "threads", "steps", "clock")}
    print(json.dumps(result | {"variants": rows}))


if __name__ == "__main__":
    main()
