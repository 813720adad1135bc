"""The table of bounds, and the page that shows it."""

import re
from pathlib import Path

import pytest

from icgan_export.lower.bounds import (
    BOUNDS,
    COSINE,
    FID_CHANGE,
    MAX_ERROR,
    PSNR,
    RECALL,
    find_bound,
    limit,
)
from icgan_export.lower.compare import compared

PAGE = Path(__file__).parents[3] / "docs" / "export.md"


def row(precision: str) -> str:
    """A row of the page's table, from the bounds."""
    worst = find_bound("generator", precision, MAX_ERROR)
    pictures = (
        f"PSNR {limit('generator', precision, PSNR):g} dB"
        if worst is None
        else f"largest error {worst.limit:.0e}".replace("e-0", "e-") + " of pixels in [-1, 1]"
    )
    kept = limit("encoder", precision, RECALL)
    change = find_bound("generator", precision, FID_CHANGE)
    cells = (
        precision.upper(),
        pictures,
        f"{limit('encoder', precision, COSINE):g}",
        "all" if kept == 1 else f"{kept:.0%}".replace("%", " %"),
        "" if change is None else f"{change.limit:.1f}",
    )
    return " ".join(f"| {cell} |" for cell in cells).replace("| |", "|").replace("|  |", "| |")


def test_the_page_shows_the_bounds_that_are_checked():
    shown = {
        line.split("|")[1].strip().lower(): re.sub(r"\s+", " ", line)
        for line in PAGE.read_text("utf-8").splitlines()
        if re.match(r"\| (FP32|FP16|BF16|INT8) \|", line)
    }
    assert shown == {precision: row(precision) for precision in ("fp32", "fp16", "bf16", "int8")}


def test_every_bound_is_found_by_its_names_and_only_once():
    assert len({(bound.stage, bound.precision, bound.measure) for bound in BOUNDS}) == len(BOUNDS)
    assert all(find_bound(bound.stage, bound.precision, bound.measure) is bound for bound in BOUNDS)


@pytest.mark.parametrize(
    "bound", BOUNDS, ids=lambda bound: f"{bound.stage} {bound.precision} {bound.measure}"
)
def test_a_value_beyond_its_bound_is_missed_and_so_is_nan(bound):
    beyond = bound.limit - 0.01 if bound.at_least else bound.limit + 0.01
    for value, passed in ((bound.limit, True), (beyond, False), (float("nan"), False)):
        assert compared(bound.stage, bound.precision, bound.measure, value).passed is passed


def test_what_has_no_bound_is_reported_and_not_judged():
    assert compared("generator", "fp16", "mean error", 1e9).passed
