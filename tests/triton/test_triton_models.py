"""triton_models/ as committed shows the repository of one model; the exporter writes the same for any other.

python -m tests.triton.test_triton_models        # writes the configurations again after a change
"""

from __future__ import annotations

from pathlib import Path

from icgan_runtime.bundle.manifest import Licence, Model, Preprocessing
from icgan_runtime.identity import EncoderIdentity
from icgan_runtime.server.models import ServedModel, configurations, cpu_configurations, ensembles
from icgan_runtime.server.pbtxt import to_pbtxt

MODELS = Path(__file__).parents[2] / "triton_models"

# The dimensions of the published 256 px model on ImageNet, without classes.
SHOWN = ServedModel(
    Model(
        name="icgan-imagenet-256",
        version="1",
        resolution=256,
        dim_z=120,
        embedding_dim=2048,
        classes=0,
        class_names=None,
        encoder=EncoderIdentity("resnet50", "0" * 64, 224, 2048),
        preprocessing=Preprocessing(256),
        licence=Licence("unspecified", "an example: no weights are meant"),
    ),
    neighbours=10,
    labelled=False,
)


def texts() -> dict[Path, str]:
    """Every configuration file of the shown repository."""
    found = {
        MODELS / name / "config.pbtxt": to_pbtxt(config)
        for name, config in (configurations(SHOWN) | ensembles(SHOWN, {})).items()
    }
    for name, config in cpu_configurations(SHOWN).items():
        found[MODELS / name / "configs" / "cpu.pbtxt"] = to_pbtxt(config)
    return found


def test_the_committed_configurations_are_what_the_exporter_writes():
    expected = texts()
    assert {path: path.read_text() for path in MODELS.rglob("*.pbtxt")} == expected


if __name__ == "__main__":
    for path, text in texts().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
