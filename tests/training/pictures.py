"""Pictures and encoders for tests of the data side."""

from pathlib import Path

import numpy as np
from PIL import Image

from icgan_training.networks.encoder import EncoderConfig

PHOTO = Path(__file__).parents[1] / "golden" / "photo.jpg"

TINY_ENCODER = EncoderConfig(
    "efficientnet-lite0",
    embedding_dim=1280,
    input_size=32,  # keeps embedding a few dozen pictures under a second
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def write_pictures(folder: Path, photo: Image.Image, count: int, seed: int = 0) -> list[Path]:
    """Different random crops of the photo, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        left, top = int(random.integers(0, 200)), int(random.integers(0, 120))
        path = folder / f"{number:03d}.png"
        photo.crop((left, top, left + 140, top + 100)).resize((42, 30)).save(path)
        paths.append(path)
    return paths
