"""What the served models promise: dimensions of the bundle, the wire contract, and GPU and CPU forms."""

from __future__ import annotations

import dataclasses

import pytest

from icgan_export.engine import PlanOptions
from icgan_runtime.server import pbtxt as tc
from icgan_runtime.server.models import (
    ENSEMBLES,
    ServedModel,
    configurations,
    cpu_configurations,
    ensembles,
)
from icgan_runtime.server.options import SEARCHES, RepositoryOptions
from tests.models.make_models import DIM_Z, NEIGHBOURS, SIDE, WIDTH, tiny_model


def served(classes: int = 0, **options) -> ServedModel:
    return ServedModel(tiny_model(classes), NEIGHBOURS, labelled=True, options=RepositoryOptions(**options))


def shapes(tensors: tuple[tc.Tensor, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {tensor.name: (tensor.data_type, tensor.dims) for tensor in tensors}


def test_the_ensemble_has_the_inputs_and_outputs_of_the_contract():
    config = ensembles(served(), {})["icgan"]
    assert shapes(config.input) == {
        "IMAGE": ("TYPE_STRING", (1,)),
        "SEED": ("TYPE_INT64", (1,)),
        "SAMPLE": ("TYPE_INT64", (1,)),
        "TRUNCATION": ("TYPE_FP32", (1,)),
        "CONDITION": ("TYPE_INT32", (1,)),
    }
    assert shapes(config.output) == {
        "GENERATED": ("TYPE_UINT8", (SIDE, SIDE, 3)),
        "EMBEDDING": ("TYPE_FP32", (WIDTH,)),
        "NEIGHBOUR_IDS": ("TYPE_INT64", (NEIGHBOURS,)),
        "NEIGHBOUR_SCORES": ("TYPE_FP32", (NEIGHBOURS,)),
        "NEIGHBOUR_NAMES": ("TYPE_STRING", (NEIGHBOURS,)),
        "OUTSIDE_BELOW": ("TYPE_FP32", (1,)),
        "BANK_STATE": ("TYPE_STRING", (1,)),
        "NEIGHBOUR_LABELS": ("TYPE_INT64", (NEIGHBOURS,)),
        "NEIGHBOUR_CLASSES": ("TYPE_STRING", (NEIGHBOURS,)),
    }


def test_a_label_is_asked_for_only_by_a_model_with_classes():
    for name in (ensemble.name for ensemble in ENSEMBLES):
        assert "LABEL" not in shapes(ensembles(served(), {})[name].input)
        assert shapes(ensembles(served(classes=3), {})[name].input)["LABEL"] == ("TYPE_INT64", (1,))


def test_no_input_of_an_ensemble_is_optional():
    for config in ensembles(served(classes=3), {}).values():
        assert not any(tensor.optional for tensor in config.input)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("classes", [0, 3])
def test_every_step_fits_its_model(search, classes):
    built = served(classes, search=search)
    for forms in (configurations(built), configurations(built) | cpu_configurations(built)):
        for config in ensembles(built, {}).values():
            for step in config.ensemble_scheduling.step:
                model = forms[step.model_name]
                needed = {tensor.name for tensor in model.input if not tensor.optional}
                assert needed <= set(step.input_map) <= {tensor.name for tensor in model.input}
                assert set(step.output_map) <= {tensor.name for tensor in model.output}


def test_the_ensembles_pin_the_versions_of_a_release():
    pinned = ensembles(served(), {"icgan_preprocess": 4, "icgan_condition": 2})["icgan"]
    versions = {step.model_name: step.model_version for step in pinned.ensemble_scheduling.step}
    assert versions["icgan_preprocess"] == 4
    assert versions["icgan_condition"] == 2
    assert versions["icgan_encoder"] == 1


@pytest.mark.parametrize("search", SEARCHES)
def test_only_a_model_that_no_stage_stands_before_has_a_queue_with_a_limit_of_the_servers_own(search):
    """With a limit the server would look at the queue every half second at times (docs/reports/log.md)."""
    built = served(search=search)
    for config in [*configurations(built).values(), *cpu_configurations(built).values()]:
        limited = config.dynamic_batching.default_queue_policy is not None
        assert limited == (config.name == "icgan_lookup"), config.name


def test_stages_know_how_much_may_be_under_way():
    built = configurations(served(max_queue=7, max_batch=4))
    for name in ("icgan_preprocess", "icgan_condition", "icgan_picture"):
        limits = {key: built[name].parameters[key].string_value for key in ("max_queue", "max_rows")}
        assert limits == {"max_queue": "7", "max_rows": "4"}


def test_several_generators_share_the_cores():
    generator = cpu_configurations(served(generators=2))["icgan_generator"]
    assert [group.count for group in generator.instance_group] == [2]
    assert generator.parameters["intra_op_thread_count"].string_value == "1"
    for options in ({}, {"generators": 2, "generator_threads": 0}):
        generator = cpu_configurations(served(**options))["icgan_generator"]
        assert "intra_op_thread_count" not in generator.parameters, "all cores"


def test_one_process_decodes_in_as_many_threads_as_are_asked_for():
    decoding = configurations(served(decoders=3))["icgan_preprocess"]
    assert [group.count for group in decoding.instance_group] == [1]
    assert decoding.parameters["decoders"].string_value == "3"


def test_on_a_gpu_one_process_searches_whatever_the_cores():
    on_gpu = served(search="faiss-gpu", condition_processes=3)
    for models, count in (
        (configurations(on_gpu), 1),
        (cpu_configurations(on_gpu), 3),
        (configurations(served(condition_processes=3)), 3),
    ):
        assert [group.count for group in models["icgan_condition"].instance_group] == [count]


def test_answers_are_kept_only_where_that_is_asked_for_and_by_the_networks_alone():
    """The server's key leaves out which outputs were asked for, and a refusal is kept as an answer."""
    for models in (configurations, cpu_configurations):
        assert all(config.response_cache is None for config in models(served()).values())
        kept = [config for config in models(served(cache_mb=8)).values() if config.response_cache]
        assert {config.name for config in kept} == {"icgan_encoder", "icgan_generator"}
        assert {len(config.output) for config in kept} == {1}
    assert configurations(served())["icgan_preprocess"].parameters["kept_pictures"].string_value == "0"


@pytest.mark.parametrize("search", SEARCHES)
def test_no_model_asks_for_a_gpu_in_its_cpu_form(search):
    built = served(search=search)
    for config in (configurations(built) | cpu_configurations(built)).values():
        assert [group.kind for group in config.instance_group] == [tc.CPU]


def test_a_gpu_runs_plans_with_a_cuda_graph_for_every_usual_batch():
    plans = {role: {"9.0": f"{role}.plan"} for role in ("encoder", "generator")}
    built = dataclasses.replace(served(classes=3, max_batch=8), plans=plans)
    generator = configurations(built)["icgan_generator"]
    assert generator.platform == "tensorrt_plan"
    assert generator.cc_model_filenames == {"9.0": "generator.plan"}
    assert generator.instance_group == (tc.InstanceGroup(tc.GPU, profile=("0", "1")),)
    assert [spec.batch_size for spec in generator.optimization.cuda.graph_spec] == [1, 2, 4, 8]
    inputs = {name: shape.dim for name, shape in generator.optimization.cuda.graph_spec[0].input.items()}
    assert inputs == {"noise": (DIM_Z,), "embedding": (WIDTH,), "label": ()}
    assert [warm_up.batch_size for warm_up in generator.model_warmup] == [1, 8]


@pytest.mark.parametrize("max_batch", [1, 8])
def test_the_profiles_named_to_triton_are_those_of_a_plan_for_its_batch(max_batch):
    """Unnamed, Triton uses the first alone, which takes one row."""
    built = dataclasses.replace(served(max_batch=max_batch), plans={"encoder": {"9.0": "encoder.plan"}})
    (group,) = configurations(built)["icgan_encoder"].instance_group
    named = [int(number) for number in group.profile or ("0",)]
    profiles = PlanOptions(best_batch=1, max_batch=max_batch).profiles
    assert named == list(range(len(profiles)))
    assert max(profiles[index][2] for index in named) == max_batch


def test_without_a_plan_a_gpu_runs_onnx_on_its_tensorrt_or_cuda_provider():
    generator = configurations(served())["icgan_generator"]
    assert (generator.backend, generator.platform) == ("onnxruntime", "")
    providers = generator.optimization.execution_accelerators.gpu_execution_accelerator
    assert [provider.name for provider in providers] == ["tensorrt"]
