"""Images per second of the training step, against the same step in straightforward PyTorch.

    python -m benchmarks.train_step --preset cifar10 --threads 2

Every variant trains on the same random batch; after warm-up, the median of the timed steps counts. Prints
a table and, as its last line, JSON.
"""

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.plain import PlainTrainer
from icgan_training.augment import UNIFORMS
from icgan_training.config import ModelConfig, TrainConfig
from icgan_training.distributed import ALONE
from icgan_training.presets import preset
from icgan_training.sampler import Batch
from icgan_training.step import Inputs, StepInputs, Trainer

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


def measure(step: Callable[[], object], device: torch.device, warm_up: int, seconds: float) -> list[float]:
    """Seconds of each step, at least five."""
    times: list[float] = []
    for i in range(10_000):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= warm_up:
            times.append(time.perf_counter() - start)
        if len(times) >= 5 and sum(times) > seconds:
            break
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="cifar10", help="an instance-conditioned preset")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=10, help="timed for each variant")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS)[:-1], choices=list(VARIANTS))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chosen, device = preset(args.preset), torch.device(args.device)
    # Augmentation and a second D step cost both sides the same; they are left out of the comparison.
    train = replace(
        chosen.train, batch_size=args.batch, diffaugment=(), discriminator_steps=1, accumulation=1
    )
    rows = {}
    for name in args.variants:
        torch.manual_seed(0)
        times = measure(prepare(name, chosen.model, train, device), device, 3, args.seconds)
        rows[name] = args.batch / statistics.median(times)
        print(f"{name:40} {rows[name]:8.1f} images/s   {len(times)} steps", flush=True)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    result = {
        "preset": args.preset,
        "batch": args.batch,
        "threads": args.threads,
        "hardware": hardware,
        "torch": torch.__version__,
        "images_per_second": {name: round(value, 2) for name, value in rows.items()},
        "speedup": round(max(rows.values()) / rows["plain"], 2) if "plain" in rows else None,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
