"""The prior of a bundle as files: `prior/` of docs/format.md."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from icgan_runtime.bundle import arrays, manifest
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.strict_json import parse, to_json
from icgan_runtime.errors import BindingError, BundleError
from icgan_runtime.prior import FOLDER, MAX_AXES, MAX_CENTRES, Prior

FORMAT = "icgan-prior"
SCHEMA_VERSION = 1
ABOUT_NAME = f"{FOLDER}/prior.json"


@dataclass(frozen=True)
class AboutPrior:
    """prior.json: what the arrays beside it are of."""

    encoder_id: str
    embedding_dim: int
    centres: int
    axes: int
    pictures: int  # that it was fitted to
    least: int  # pictures behind each centre
    classes: int  # of labels.npy; 0: it has none


def has_prior(book: manifest.Manifest) -> bool:
    """Whether a bundle can draw instances."""
    return ABOUT_NAME in book.files


def read_about(bundle: Bundle) -> AboutPrior | None:
    """What prior.json of a bundle says; None where it has no prior. Raises BundleError."""
    if not has_prior(bundle.manifest):
        return None
    model = bundle.manifest.model
    text = bundle.read(ABOUT_NAME, manifest.MAX_MANIFEST_BYTES)
    about: AboutPrior = parse(AboutPrior, text, ABOUT_NAME, FORMAT, SCHEMA_VERSION)
    if about.encoder_id != model.encoder_id or about.embedding_dim != model.embedding_dim:
        raise BindingError(
            ABOUT_NAME, f"made for another encoder than {model.encoder.name}: export the bundle again"
        )
    if about.classes != model.classes:
        raise BindingError(ABOUT_NAME, f"has labels of {about.classes} classes, the model {model.classes}")
    bounds = {"centres": MAX_CENTRES, "axes": MAX_AXES, "pictures": 1 << 52, "least": about.pictures}
    for name, most in bounds.items():
        value = getattr(about, name)
        if not 1 <= value <= most:
            raise BundleError(ABOUT_NAME, f"{name} is {value}, expected 1..{most}")
    return about


def read_prior(bundle: Bundle) -> Prior | None:
    """The prior of an opened bundle, every file verified; None where it has none. Raises BundleError."""
    about = read_about(bundle)
    if about is None:
        return None

    def array(name: str, dtype: str, *shape: int) -> NDArray[Any]:
        file = f"{FOLDER}/{name}.npy"
        return arrays.require(arrays.read_npy(bundle.read(file), file), file, dtype, shape, ABOUT_NAME)

    prior = Prior(
        array("centres", "float32", about.centres, about.embedding_dim),
        array("axes", "float32", about.axes, about.embedding_dim),
        array("scales", "float32", about.centres, about.axes),
        array("counts", "int64", about.centres),
        array("labels", "int64", about.centres, about.classes) if about.classes else None,
    )
    if (int(prior.counts.sum()), prior.least) != (about.pictures, about.least):
        said = f"{about.pictures} pictures, {about.least} or more for each centre"
        raise BindingError(ABOUT_NAME, f"says {said}, which counts.npy does not")
    return prior


def write_prior(prior: Prior, model: manifest.Model, bundle: Path) -> None:
    """Write `prior/` into the folder of a bundle that is being written."""
    folder = bundle / FOLDER
    folder.mkdir()
    for item in fields(Prior):
        if (values := getattr(prior, item.name)) is not None:
            arrays.write_npy(folder / f"{item.name}.npy", values)
    about = AboutPrior(
        model.encoder_id,
        prior.centres.shape[1],
        len(prior),
        len(prior.axes),
        int(prior.counts.sum()),
        prior.least,
        0 if prior.labels is None else prior.labels.shape[1],
    )
    text = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **to_json(about)}
    (bundle / ABOUT_NAME).write_text(json.dumps(text, indent=1) + "\n", "utf-8")
