"""What an ONNX encoder takes pictures as: by options, or by the file that Hugging Face puts beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icgan_training.errors import WeightsError
from icgan_training.integrity import inside, read_json

PROCESSOR = "preprocessor_config.json"
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which the processor's file uses
OTHERS = {0: "nearest", 1: "lanczos", 4: "box", 5: "hamming"}
TOKENS = ("first", "mean")
# What the processors of Hugging Face do that ours does not, where the file says true.
UNKNOWN = ("do_flip_channel_order", "do_pad", "do_thumbnail", "do_align_long_axis", "rescale_offset")
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class OnnxOptions:
    """What a user says of an ONNX encoder; None where its files say it."""

    output: str | None = None  # whose rows are the embeddings
    tokens: str | None = None  # one of TOKENS: which vector stands for a picture that has several
    mean: Sequence[float] | None = None  # RGB, of pictures from 0 to `scale`
    std: Sequence[float] | None = None
    scale: float | None = None  # 1 or 255
    resize: str | None = None  # one of RESIZES

    @property
    def given(self) -> list[str]:
        """The options, by name."""
        return [f"--encoder-{name}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Pixels:
    """How bytes become what the network sees."""

    side: int | None  # None: nothing says it
    mean: RGB  # on the [0, 1] scale
    std: RGB
    resize: str  # one of RESIZES
    remarks: tuple[str, ...] = ()  # where the processor's file does something else


def find_pixels(path: Path, options: OnnxOptions) -> Pixels:
    """What `options` and the processor's file beside the ONNX file `path` say; options come first.

    Raises WeightsError where neither says mean and deviation, or where the file asks for what ours cannot do.
    """
    file = processor_file(path)
    said = {} if file is None else _read(file)
    name = file or Path(PROCESSOR)
    unknown = [key for key in UNKNOWN if said.get(key)]
    if unknown:
        raise WeightsError(
            f"{name}: {unknown[0]} is {said[unknown[0]]}, which pictures are not prepared with here: "
            "choose another encoder, or export it with that inside"
        )
    mean, std = _normalisation(path, name, said, options)
    side, remarks = _side(name, said)
    return Pixels(side, mean, std, _resize(name, said, options), remarks)


def processor_file(path: Path) -> Path | None:
    """The processor's file beside an ONNX file, or above a folder called `onnx`; None where there is none."""
    folders = [path.parent, *([path.resolve().parent.parent] if path.resolve().parent.name == "onnx" else [])]
    return next((folder / PROCESSOR for folder in folders if (folder / PROCESSOR).exists()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_json(inside(file.parent, file.name))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{file} cannot be read ({error}): mend it, or move it away and name --encoder-mean and"
            " --encoder-std"
        ) from error


def _normalisation(path: Path, name: Path, said: Mapping[str, Any], options: OnnxOptions) -> tuple[RGB, RGB]:
    """Mean and standard deviation on the [0, 1] scale."""
    if (options.mean is None) != (options.std is None):
        missing = "--encoder-std" if options.std is None else "--encoder-mean"
        raise WeightsError(f"{missing} is missing: mean and standard deviation go together")
    if options.mean is not None and options.std is not None:
        white = options.scale or 1.0
        mean, std = _three("--encoder-mean", options.mean), _three("--encoder-std", options.std)
    elif options.scale is not None:  # nothing is subtracted
        white, mean, std = options.scale, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    elif said:
        white = 255 * _number(name, "rescale_factor", said.get("rescale_factor", 1 / 255))
        white = white if said.get("do_rescale", True) else 255.0
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if said.get("do_normalize", True):
            mean, std = (_three(f"{name}: {key}", said.get(key)) for key in ("image_mean", "image_std"))
    else:
        raise WeightsError(
            f"{path} says nothing of its pictures: put its {PROCESSOR} beside it, or name --encoder-mean"
            " R G B and --encoder-std R G B (of pictures from 0 to 1, else --encoder-scale 255)"
        )
    if min(std) <= 0 or white <= 0:
        raise WeightsError(f"the standard deviation of {path} is {list(std)}: it must be positive")
    return _scaled(mean, white), _scaled(std, white)


def _scaled(values: RGB, white: float) -> RGB:
    red, green, blue = (value / white for value in values)
    return red, green, blue


def _three(field: str, values: Any) -> RGB:
    number = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
    if not number or len(values) != 3:
        raise WeightsError(f"{field} is {values}, it must be three numbers: red, green, blue")
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _number(name: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise WeightsError(f"{name}: {key} is {value}, it must be a number above 0")
    return float(value)


def _resize(name: Path, said: Mapping[str, Any], options: OnnxOptions) -> str:
    if options.resize is not None:
        return options.resize
    number = said.get("resample", 3)
    if number not in RESAMPLE:
        raise WeightsError(
            f"{name}: resample is {number} ({OTHERS.get(number, 'unknown')}), known: 2 (bilinear), 3"
            " (bicubic): choose the nearer one with --encoder-resize"
        )
    return RESAMPLE[number]


def _side(name: Path, said: Mapping[str, Any]) -> tuple[int | None, tuple[str, ...]]:
    """The side that the network sees; pictures are square before, so that one crop and one resize remain."""
    size = _length(name, "size", said.get("size")) if said.get("do_resize", True) else None
    if not said.get("do_center_crop", False):
        share = said.get("crop_pct")
        if isinstance(share, float) and 0 < share < 1:
            return size, (f"{name.name} crops to the middle {share:g} of a side: not done, pictures are"
                          " cropped to their middle square before",)  # fmt: skip
        return size, ()
    crop = _length(name, "crop_size", said.get("crop_size", said.get("size")))
    if crop is None or crop == size or size is None:
        return crop, ()
    return crop, (
        f"{name.name} resizes to {size} pixels and crops to {crop}: the whole square is resized to {crop},"
        " pictures are cropped to their middle square before",
    )


def _length(name: Path, key: str, value: Any) -> int | None:
    """`size` in the forms that it has: a number, shortest_edge, or height and width."""
    if isinstance(value, dict):
        if "height" in value or "width" in value:
            if value.get("height") != value.get("width"):
                raise WeightsError(
                    f"{name}: {key} is {value.get('height')} x {value.get('width')}, pictures are square"
                    " here: choose another encoder"
                )
            value = value.get("height")
        else:
            value = value.get("shortest_edge")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WeightsError(f"{name}: {key} is {value}, it must be a number of pixels")
    return value
