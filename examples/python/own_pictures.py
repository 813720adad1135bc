"""Own pictures, end to end: a folder of photos becomes a trained model, a bundle and new pictures.

    python examples/python/own_pictures.py PHOTOS --work mine --preset demo64 --images 400k

Each step is a command of this project and prints what it does; the same steps can be typed in a shell. A
step that was stopped goes on when the program is started again. The defaults show the way in minutes and
learn nothing worth seeing: a model of photos takes an hour of one core (`--preset demo64 --images 400k`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from icgan_export.cli import main as icgan_export
from icgan_runtime import Pipeline
from icgan_training.cli import main as icgan_train

ENCODER = (
    Path(__file__).parents[2] / "models/encoders/efficientnet-lite0.safetensors"
)  # nothing is downloaded


def main() -> None:
    options = parse()
    data, run, bundle = (options.work / name for name in ("data", "run", "bundle"))
    size = {"tiny": "32", "demo64": "64"}[options.preset]
    if not (data / "dataset.json").exists():
        prepare = ["prepare", options.photos, "--resolution", size, "--neighbours", "5"]
        step(icgan_train, *prepare, "--encoder", options.encoder, "--out", data)
    step(icgan_train, "fit", data, "--preset", options.preset, "--images", options.images, "--out", run)
    step(icgan_export, "bundle", run, "--instances", "100", "--neighbours", "5", "--out", bundle)

    photo = next(path for path in sorted(options.photos.rglob("*")) if path.suffix in (".jpg", ".png"))
    with Pipeline.load(bundle) as pipe:
        result = pipe.generate(photo, n=8, seed=0, truncation=0.7)
    print(f"{photo}: its nearest instances are {', '.join(result.neighbours.names or ())}")
    result.save(options.work / "generated.png")
    print(f"wrote {options.work / 'generated.png'}")


def step(program, *arguments) -> None:
    """Run a command of ours in this process; it has explained itself on stderr when it fails."""
    status = program([str(argument) for argument in arguments])
    if status != 0:
        sys.exit(status)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of pictures, a dozen at least")
    parser.add_argument(
        "--work", type=Path, default=Path("mine"), help="where everything is written (default: mine)"
    )
    parser.add_argument("--preset", choices=["tiny", "demo64"], default="tiny", help="(default: tiny)")
    parser.add_argument("--images", default="64", help="pictures to train on (default: 64)")
    parser.add_argument("--encoder", default=ENCODER, help="weights file (default: the shipped one)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
