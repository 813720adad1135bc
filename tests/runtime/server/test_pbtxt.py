"""Configurations written as text are read back by Triton's own protobuf definition as they were meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from icgan_runtime.server import pbtxt as tc

pytest.importorskip("tritonclient.grpc", reason="pip install 'icgan[triton]'")
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

EVERYTHING = tc.ModelConfig(
    name='quotes " and \\ survive',
    max_batch_size=8,
    input=(
        tc.Tensor("a", tc.FP32, (-1, 3), optional=True),
        tc.Tensor("b", tc.INT64, (1,), reshape=tc.Shape()),
    ),
    output=(tc.Tensor("c", tc.UINT8, (4, 4, 3)),),
    platform="tensorrt_plan",
    default_model_filename="model.fp16.onnx",
    version_policy=tc.VersionPolicy(tc.Specific((1, 3))),
    instance_group=(tc.InstanceGroup(tc.GPU, 2, ("0", "1")), tc.InstanceGroup(tc.CPU)),
    dynamic_batching=tc.DynamicBatching(tc.QueuePolicy(64), 500),
    optimization=tc.Optimization(
        tc.Cuda(graph_spec=(tc.GraphSpec(1, {"a": tc.GraphShape((3,))}),)),
        tc.ExecutionAccelerators((tc.Accelerator("tensorrt", {"precision_mode": "FP16"}),)),
    ),
    cc_model_filenames={"9.0": "sm90.plan"},
    model_warmup=(tc.WarmUp("one", 1, {"a": tc.WarmUpInput(tc.FP32, (3,), "rows")}),),
    parameters={"é": tc.Parameter('{"json": [1, "ü"]}')},
)
ENSEMBLE = dataclasses.replace(
    EVERYTHING,
    dynamic_batching=None,
    ensemble_scheduling=tc.EnsembleScheduling((tc.Step("m", 3, {"x": "X"}, {"y": "Y"}),)),
)


def read_back(config: tc.ModelConfig) -> pb.ModelConfig:
    return text_format.Parse(tc.to_pbtxt(config), pb.ModelConfig())


def assert_same(meant: Any, read: Any) -> None:
    """Compare a dataclass with the message that was parsed from its text, all the way down."""
    if dataclasses.is_dataclass(meant):
        for field in dataclasses.fields(meant):
            value = getattr(meant, field.name)
            described = read.DESCRIPTOR.fields_by_name.get(field.name)
            if described is None:  # Triton's inputs have fields that its outputs lack
                assert value == field.default
                continue
            found = getattr(read, field.name)
            if value is None:
                assert not read.HasField(field.name)
            elif isinstance(value, tc.Word):
                assert found == described.enum_type.values_by_name[value].number, field.name
            else:
                assert_same(value, found)
    elif isinstance(meant, Mapping):
        assert set(meant) == set(read)
        for key, value in meant.items():
            assert_same(value, read[key])
    elif isinstance(meant, tuple):
        assert len(meant) == len(read)
        for value, found in zip(meant, read, strict=True):
            assert_same(value, found)
    else:
        assert meant == read


@pytest.mark.parametrize("config", [EVERYTHING, ENSEMBLE], ids=["model", "ensemble"])
def test_every_field_is_read_back_as_it_was_meant(config):
    assert_same(config, read_back(config))


def test_a_field_triton_does_not_know_is_noticed():
    text = tc.to_pbtxt(EVERYTHING).replace("max_queue_size", "max_queue_length")
    with pytest.raises(text_format.ParseError, match="max_queue_length"):
        text_format.Parse(text, pb.ModelConfig())
