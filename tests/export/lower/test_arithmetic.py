"""What a graph costs, against numbers that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from icgan_export.lower.arithmetic import cost
from icgan_export.lower.graphs import generator_graph
from icgan_export.lower.onnx_export import TRACED_BATCH, export_onnx
from icgan_export.rewrite.choice import Rewrites
from icgan_training.networks.config import ModelConfig
from icgan_training.networks.generator import Generator


def graph(module, *shape):
    return export_onnx(module, {"x": torch.zeros(TRACED_BATCH, *shape)}, ["y"], {})


def test_a_convolution_multiplies_every_kernel_tap_at_every_pixel():
    found = cost(graph(nn.Conv2d(3, 5, 3, padding=1, bias=False), 3, 8, 8), batch=4)
    assert found.multiply_adds == 4 * 8 * 8 * 5 * 3 * 9
    assert found.operators == {"Conv": 1}


def test_a_depthwise_convolution_sees_one_channel_only():
    assert cost(graph(nn.Conv2d(6, 6, 3, padding=1, groups=6), 6, 8, 8)).multiply_adds == 8 * 8 * 6 * 9


def test_a_transposed_convolution_multiplies_at_every_input_pixel():
    module = nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1)
    assert cost(graph(module, 3, 8, 8)).multiply_adds == 8 * 8 * 3 * 5 * 16


def test_a_matrix_product_is_rows_times_columns_times_the_inner_width():
    assert cost(graph(nn.Linear(7, 11), 7), batch=3).multiply_adds == 3 * 7 * 11


def test_activations_live_until_their_last_reader():
    class Chain(nn.Module):
        def forward(self, x):
            return torch.relu(torch.tanh(x) * 2) + x

    # 64 float32 values: x stays to the end, beside it a node's input and output
    assert cost(graph(Chain(), 64)).peak_activation_bytes == 3 * 64 * 4


@pytest.mark.parametrize("form", ["transposed", "phases", "products"])
def test_the_rewrites_of_a_block_save_the_arithmetic_their_documentation_promises(form):
    config = ModelConfig(32, ch=16, embedding_dim=8, shared_dim_feat=8, dim_z=16)
    torch.manual_seed(0)
    generator = Generator(config).eval()
    plain = Rewrites.none(config)
    before = cost(generator_graph(generator, plain, {})).multiply_adds
    rewrites = Rewrites((form,) * 3)
    after = cost(generator_graph(generator, rewrites, {})).multiply_adds
    pixels, width = 4 * 4 + 8 * 8 + 16 * 16, 64
    # for each input pixel and pair of channels: conv1 36, conv2 36, shortcut 4 before
    kept = {"transposed": 16 + 36 + 1, "phases": 16 + 36 + 1, "products": 9 + 16 + 1}[form]
    saved = (36 + 36 + 4 - kept) * pixels * width * width
    assert 0.85 * saved < before - after < 1.02 * saved  # phases and differences reach one row past a picture
