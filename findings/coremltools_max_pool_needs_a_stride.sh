#!/usr/bin/env bash
# Expected: coremltools converts torch.nn.functional.max_pool2d(x, 2) from torch.export, where the stride is that of the
# kernel, as torch documents.
# Instead: torch.export leaves an argument that has its default out of the graph, and coremltools asks for three inputs:
# "got 2 input(s), expected minimum 3 inputs". The traced module (torch.jit.trace) is converted, and so is the exported
# one once the stride is written out.
# Seen with coremltools 9.0 and torch 2.13.0. In practice: attention that pools keys and values, as BigGAN's, has to say
# the stride twice.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 coremltools==9.0 2> "$work/log" || { cat "$work/log"; exit 2; }
"$work/venv/bin/python" - 2> "$work/log" <<'PYTHON' || { cat "$work/log"; exit 1; }
import sys

import coremltools
import torch
from torch.nn import functional as F


class Pooled(torch.nn.Module):
    def __init__(self, *stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return F.max_pool2d(x, 2, *self.stride)


def outcome(*stride):
    """What becomes of the exported module."""
    x = torch.zeros(1, 3, 8, 8)
    exported = torch.export.export(Pooled(*stride).eval(), (x,)).run_decompositions({})
    try:
        model = coremltools.convert(exported, convert_to="mlprogram")
    except ValueError as error:
        return str(error)
    (block,) = model.get_spec().mlProgram.functions["main"].block_specializations.values()
    (pool,) = (each for each in block.operations if each.type == "max_pool")
    return str([side.constant.size for side in pool.outputs[0].type.tensorType.dimensions])


print("coremltools", coremltools.__version__, "torch", torch.__version__)
found = {"max_pool2d(x, 2)": outcome(), "max_pool2d(x, 2, 2)": outcome(2)}
for call, what in found.items():
    print(f"{call}: {what}")
refused, converted = found.values()
sys.exit("expected minimum 3 inputs" not in refused or converted != "[1, 3, 4, 4]")
PYTHON
