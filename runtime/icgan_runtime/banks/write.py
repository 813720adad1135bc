"""A bundle with other stored instances: the graphs as they are, a new bank, without torch or an export."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icgan_runtime import files
from icgan_runtime.banks.source import Found, covering, credit, read
from icgan_runtime.bundle import arrays, manifest
from icgan_runtime.bundle.bank import FOLDER, Bank
from icgan_runtime.bundle.changes import Base
from icgan_runtime.bundle.lookup import fits, lookup_bytes
from icgan_runtime.bundle.manifest import BankEntry, Manifest, Model
from icgan_runtime.bundle.opened import Bundle
from icgan_runtime.bundle.prior_files import has_prior
from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.console import tell
from icgan_runtime.errors import RequestError
from icgan_runtime.pipeline import Pipeline
from icgan_runtime.prior import FOLDER as PRIOR_FOLDER
from icgan_runtime.search.base import Search
from icgan_runtime.search.choose import choose_search
from icgan_runtime.search.novelty import outside_below

CARD = "README.md"
UNSTATED = "LicenseRef-unstated"


@dataclass(frozen=True)
class BankOptions:
    """What `icgan bank` was asked for."""

    instances: int | None = None  # at most; None: all
    neighbours: int = 10
    thumbnails: int = 64  # largest side; 0: none
    names: bool = True
    names_file: Path | None = None  # one a line, for embeddings without files
    licence: str | None = None  # of the pictures; None: what their folder says
    embeddings: str = "float32"  # how they are stored (bundle/coded.py)


def write_new_bank(pipe: Pipeline, bundle: Bundle, wanted: str, out: Path, options: BankOptions) -> Bank:
    """Write `bundle` with the instances of `wanted` to `out`, whole or not at all; `pipe` runs the bundle.

    `wanted`: a folder of pictures, a prepared data set, or a .npy of embeddings. Raises RequestError.
    """
    found = read(pipe, wanted, options.thumbnails, options.names_file)
    if options.instances is not None and options.instances < len(found.ids):
        found = found.part(covering(found.embeddings, options.instances))
    model = bundle.manifest.model
    labels, class_names = _as_the_model_knows(model, bundle.manifest, found)
    source, licence = credit(Path(wanted))
    bank = Bank(
        model.encoder_id,
        found.embeddings,
        found.ids,
        labels,
        found.thumbnails,
        source or Path(wanted).resolve().name,
        options.licence or licence or UNSTATED,
        found.names if options.names else None,
    ).coded(options.embeddings)
    bank.require_space(model)
    with files.atomic_directory(out) as folder:
        (folder / FOLDER).mkdir()
        bank.write(folder / FOLDER)
        write_with_bank(bundle, bank, class_names, min(options.neighbours, len(bank)), folder)
    return bank


def _as_the_model_knows(
    model: Model, book: Manifest, found: Found
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Labels as the model's classes, and the names they are indices into."""
    match book.provenance.get("train"):
        case {"label_source": "clusters"}:  # which the graphs do not hold
            return None, None
    if found.labels is None or found.class_names is None or not model.classes:
        return found.labels, found.class_names
    known = list(model.class_names or ())
    unknown = [name for name in found.class_names if name not in known]
    if unknown:
        raise RequestError(
            "from", f"the model has no class {unknown[0]!r}; name the folders after {', '.join(known[:20])}"
        )
    number = np.array([known.index(name) for name in found.class_names], np.int64)
    return number[found.labels], model.class_names


def write_with_bank(
    bundle: Bundle,
    bank: Bank,
    class_names: tuple[str, ...] | None,
    neighbours: int,
    folder: Path,
    history: Base | None = None,
) -> None:
    """The files of a bundle around `bank`, which lies there: graphs copied, lookup graph and samples anew.

    `history`: where the bank stands in it, if it has one.
    """
    book = bundle.manifest
    graphs = [entry for entry in book.graphs if entry.role != "lookup"]
    lookup = next((entry for entry in book.graphs if entry.role == "lookup"), None)
    gone = {entry.file for entry in book.graphs if entry.role == "lookup"}
    gone |= {engine.file for engine in book.engines if engine.role == "lookup"}
    kept = dict(book.files)
    if history is None and has_prior(book):  # other pictures: it would draw those that went
        tell(f"{PRIOR_FOLDER}/ is left out: it draws instances like the pictures that are replaced")
        kept = {name: entry for name, entry in kept.items() if not name.startswith(f"{PRIOR_FOLDER}/")}
    for name in kept:
        if name in gone or name.startswith(f"{FOLDER}/") or name in (manifest.SAMPLES_NAME, CARD):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(name), folder / name)
    if lookup is not None and fits(bank.embeddings):
        inputs, outputs = manifest.graph_specs(book.model, "lookup", neighbours)
        said = manifest.onnx_metadata(book.model, "lookup", "fp32")
        data = lookup_bytes(bank.embeddings, bank.ids, neighbours, lookup.opset, said)
        (folder / lookup.file).write_bytes(data)
        graphs.append(dataclasses.replace(lookup, inputs=inputs, outputs=outputs))
    _write_samples(bundle, bank, neighbours, folder)
    if CARD in book.files:
        card = bundle.read(CARD).decode(errors="replace")
        (folder / CARD).write_text(_card(card, bank), "utf-8")
    costs = {key: value for key, value in dict(book.bench.get("costs") or {}).items() if key not in gone}
    said_of_bank: dict[str, Any] = {
        "class_names": class_names and list(class_names),
        "outside_below": outside_below(bank),
        **({} if history is None else {"history": to_json(history)}),
    }
    about = bank.about
    dataclasses.replace(
        book,
        graphs=tuple(graphs),
        bank=BankEntry(
            bank.encoder_id,
            len(bank),
            neighbours,
            about.labelled,
            about.thumbnail_size,
            about.source,
            about.licence,
        ),
        engines=tuple(engine for engine in book.engines if engine.role != "lookup"),
        provenance={**book.provenance, "bank": said_of_bank},
        bench={**book.bench, "costs": costs},
        files=manifest.describe_files(folder),
    ).write(folder)


def _write_samples(bundle: Bundle, bank: Bank, neighbours: int, folder: Path) -> None:
    """The pinned samples with what the new bank answers to their embeddings."""
    name = manifest.SAMPLES_NAME
    samples = arrays.read_npz(bundle.read(name), name)
    find: Search = choose_search(bank, "numpy")
    ids, scores = find(np.ascontiguousarray(samples["embedding"]), neighbours)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **{**samples, "ids": ids, "scores": scores})
    (folder / name).write_bytes(stream.getvalue())


def _card(text: str, bank: Bank) -> str:
    """The model card with what it says of the bank made true."""
    text = re.sub(r"The bank holds \d+ instances\.", f"The bank holds {len(bank)} instances.", text)
    line = f"Pictures in the bank ({bank.source or 'unnamed source'}): {bank.licence or 'unstated'}."
    return re.sub(r"(?m)^Pictures in the bank \(.*$", lambda _: line, text)
