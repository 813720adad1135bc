"""What each model of the served chain looks like to Triton, derived from a bundle's dimensions.

One request of N rows (generated images) that hold U different pictures runs as

    IMAGE [N] -> icgan_admit         the same, or a refusal
                 icgan_preprocess -> pictures [U], and with each the rows that show it
                 icgan_encoder       pictures [U]      -> embeddings [U]      ONNX or TensorRT
                 icgan_condition     all that          -> neighbours, noise, conditioning [N]
                 icgan_generator     noise [N], ...    -> images [N]          ONNX or TensorRT

so that the encoder sees a picture once however many images are asked of it. The condition step turns U rows
into N. A batching model may not meet two numbers of rows, so what is asked of the rows travels to it with
their picture, in one tensor of U entries. With `search` "graph" the step icgan_lookup (ONNX or TensorRT)
finds the neighbours before. The ensembles name the version of every step: a release (encoder, preprocessing,
bank and generator together) comes and goes in one moment, when an ensemble is loaded with other numbers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icgan_runtime.bundle.manifest import Model
from icgan_runtime.bundle.strict_json import to_json
from icgan_runtime.rows import FOLLOWED, PRIOR, REPEATS
from icgan_runtime.server import pbtxt as tc
from icgan_runtime.server.options import RepositoryOptions

PLAN_PROFILES = ("0", "1")  # one row, and up to the largest batch (engine.PlanOptions.profiles)
CUDA_GRAPH_BATCHES = (1, 2, 4, 8, 16, 32, 64)  # captured, up to the largest batch served

# Of a new repository; repository.py writes others here with each release.
FIRST_VERSION = tc.VersionPolicy(tc.Specific((1,)))

# Answers are kept by stage and not by ensemble, and by the stages of the networks alone. The server's key is
# the model's name and version and the inputs: it knows neither which outputs were asked for nor that an
# ensemble has other steps since a release, and a refusal is kept as an answer without outputs
# (findings/triton_cache_keeps_refusals.sh). The networks have one output, a version of their own, and refuse
# nothing that a stage before them lets through.
KEPT = tc.ResponseCache(enable=True)
# Full requests that a stage in Python takes in together: all that wait, to send away what is too much.
TAKEN_IN = 64

# How many requests wait for the graph that searches, which has no stage before it that could refuse.
LOOKUP_QUEUE = tc.QueuePolicy(max_queue_size=256)

# How many prepared pictures a decoder keeps where answers are cached.
KEPT_PICTURES = 256

Tensors = tuple[tc.Tensor, ...]


@dataclass(frozen=True)
class Ensemble:
    """One way to ask: `source` is what a row starts from."""

    name: str
    source: str  # IMAGE (an encoded file), PIXELS or EMBEDDING
    as_file: bool = False  # answer with PNG, JPEG or WebP files instead of pixels


CANARY_MODEL = "icgan_canary"  # asked by probes and watchdogs, so that the others' metrics count users alone
CANARY_ID = "icgan-canary"  # of such a request, for stages that all ensembles share
ENSEMBLES = (
    Ensemble("icgan", "IMAGE"),
    Ensemble("icgan_from_pixels", "PIXELS"),
    Ensemble("icgan_from_embedding", "EMBEDDING"),
    Ensemble("icgan_file", "IMAGE", as_file=True),
    Ensemble(CANARY_MODEL, "IMAGE", as_file=True),
)


@dataclass(frozen=True)
class ServedModel:
    """Everything the configurations depend on: facts of the bundle, and the operator's options."""

    model: Model
    neighbours: int  # k
    labelled: bool  # whether the bank knows its instances' labels
    options: RepositoryOptions = field(default_factory=RepositoryOptions)
    plans: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # role -> {"9.0": plan file}
    gpu_files: Mapping[str, str] = field(default_factory=dict)  # role -> ONNX file for a GPU without a plan
    engine_folders: Mapping[str, str] = field(default_factory=dict)  # role -> where a GPU keeps its engines
    prior: bool = False  # whether instances can be drawn


def ensembles(served: ServedModel, versions: Mapping[str, int]) -> dict[str, tc.ModelConfig]:
    """The ensembles' `config.pbtxt`, with their steps at `versions` (version 1 where not named)."""
    return {ensemble.name: _ensemble(served, ensemble, versions) for ensemble in ENSEMBLES}


def configurations(served: ServedModel) -> dict[str, tc.ModelConfig]:
    """`config.pbtxt` of every model but the ensembles."""
    models = [_admit(served), _preprocess(served), _graph(served, "encoder"), _condition(served)]
    models += [_graph(served, "generator"), _picture(served)]
    if served.options.search == "graph":
        models.append(_graph(served, "lookup"))
    return {config.name: config for config in models}


def cpu_configurations(served: ServedModel) -> dict[str, tc.ModelConfig]:
    """`configs/cpu.pbtxt` of the models that would otherwise ask for a GPU."""
    models = [_graph(served, "encoder", cpu=True), _graph(served, "generator", cpu=True)]
    if served.options.search == "graph":
        models.append(_graph(served, "lookup", cpu=True))
    if served.options.search == "faiss-gpu":
        models.append(_condition(served, cpu=True))
    return {config.name: config for config in models}


def _queue(served: ServedModel, policy: tc.QueuePolicy | None = None) -> tc.DynamicBatching:
    """Batches as they come; how much may wait the stages decide (gate.py)."""
    return tc.DynamicBatching(policy, served.options.queue_delay_us)


def _limits(served: ServedModel) -> dict[str, tc.Parameter]:
    """What a stage has to know that refuses requests: a batch of its own holds all that waits."""
    options = served.options
    return {
        "max_rows": tc.Parameter(str(options.max_batch)),
        "max_queue": tc.Parameter(str(options.max_queue)),
    }


def _python(served: ServedModel, name: str, inputs: Tensors, outputs: Tensors, **more: Any) -> tc.ModelConfig:
    settings: dict[str, Any] = {
        "max_batch_size": served.options.max_batch,
        "backend": "python",
        "version_policy": FIRST_VERSION,
        "instance_group": (tc.InstanceGroup(tc.CPU),),
        "dynamic_batching": _queue(served),
    }
    return tc.ModelConfig(name, input=inputs, output=outputs, **(settings | more))


def _picture_tensor(served: ServedModel, name: str) -> tc.Tensor:
    side = served.model.preprocessing.size
    return tc.Tensor(name, tc.UINT8, (side, side, 3))


def _generated_tensor(served: ServedModel, name: str) -> tc.Tensor:
    side = served.model.resolution
    return tc.Tensor(name, tc.UINT8, (side, side, 3))


def _admit(served: ServedModel) -> tc.ModelConfig:
    files = (tc.Tensor("IMAGE", tc.BYTES, (1,)),)
    parameters = {
        "size": tc.Parameter(str(served.model.preprocessing.size)),
        "classes": tc.Parameter(str(served.model.classes)),
        "decoders": tc.Parameter(str(served.options.decoders)),
        "max_queue": tc.Parameter(str(served.options.max_queue)),
    }
    return _python(served, "icgan_admit", files, files, parameters=parameters)


def _preprocess(served: ServedModel) -> tc.ModelConfig:
    inputs: Tensors = (
        tc.Tensor("IMAGE", tc.BYTES, (1,), optional=True),
        tc.Tensor("PIXELS", tc.UINT8, (-1, -1, 3), optional=True),
    )
    inputs += _scalars(served.model)
    outputs = (_picture_tensor(served, "image"), _packed_rows())
    parameters = {
        "classes": tc.Parameter(str(served.model.classes)),
        "decoders": tc.Parameter(str(served.options.decoders)),
        "crop": tc.Parameter(served.model.preprocessing.crop),
        "kept_pictures": tc.Parameter(str(served.options.cache_mb and KEPT_PICTURES)),
    }
    return _python(
        served,
        "icgan_preprocess",
        inputs,
        outputs,
        max_batch_size=TAKEN_IN * served.options.max_batch,
        parameters=parameters | _limits(served),
    )


def _packed_rows(optional: bool = False) -> tc.Tensor:
    """What is asked of the rows that show a picture (rows.Rows.pack)."""
    return tc.Tensor("rows", tc.BYTES, (1,), optional=optional)


def _graph(served: ServedModel, role: str, cpu: bool = False) -> tc.ModelConfig:
    """An ONNX or TensorRT model. Its tensors carry the names of the graph."""
    model = served.model
    embedding = tc.Tensor("embedding", tc.FP32, (model.embedding_dim,))
    inputs: Tensors
    outputs: Tensors
    if role == "encoder":
        inputs, outputs = (_picture_tensor(served, "image"),), (embedding,)
    elif role == "lookup":
        inputs, outputs = (embedding,), _found(served)
    else:
        inputs = (tc.Tensor("noise", tc.FP32, (model.dim_z,)), embedding)
        if model.classes:  # the graph wants one number per row, not a row of one number
            inputs += (tc.Tensor("label", tc.INT64, (1,), tc.Shape()),)
        if model.truncation == "mean-w":
            inputs += (tc.Tensor("truncation", tc.FP32, (1,), tc.Shape()),)
        outputs = (_generated_tensor(served, "image"),)
    common: dict[str, Any] = {
        "name": f"icgan_{role}",
        "max_batch_size": served.options.max_batch,
        "input": inputs,
        "output": outputs,
        "version_policy": FIRST_VERSION,
        "dynamic_batching": _queue(served, LOOKUP_QUEUE if role == "lookup" else None),
    }
    if role != "lookup" and served.options.cache_mb:
        common["response_cache"] = KEPT
    if cpu:
        return _on_cpu(served, role, common, inputs)
    common["instance_group"] = (tc.InstanceGroup(tc.GPU),)
    common["model_warmup"] = tuple(
        _warm_up(word, size, inputs) for word, size in (("one", 1), ("full", served.options.max_batch))
    )
    plans = served.plans.get(role)
    if plans:
        if served.options.max_batch > 1:
            common["instance_group"] = (tc.InstanceGroup(tc.GPU, profile=PLAN_PROFILES),)
        sizes = [size for size in CUDA_GRAPH_BATCHES if size <= served.options.max_batch]
        shapes = {
            tensor.name: tc.GraphShape((tensor.reshape or tc.Shape(tensor.dims)).shape) for tensor in inputs
        }
        cuda = tc.Cuda(graph_spec=tuple(tc.GraphSpec(size, shapes) for size in sizes))
        return tc.ModelConfig(
            **common,
            platform="tensorrt_plan",
            cc_model_filenames=plans,
            optimization=tc.Optimization(cuda),
        )
    folder = served.engine_folders.get(role)
    kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder} if folder else {}
    providers = tc.ExecutionAccelerators((tc.Accelerator("tensorrt", kept),))
    return tc.ModelConfig(
        **common,
        backend="onnxruntime",
        default_model_filename=served.gpu_files.get(role, ""),
        optimization=tc.Optimization(execution_accelerators=providers),
    )


def _on_cpu(served: ServedModel, role: str, common: dict[str, Any], inputs: Tensors) -> tc.ModelConfig:
    options = served.options
    count = options.generators if role == "generator" else 1
    backend = "onnxruntime"
    parameters = {}
    if count > 1 and options.generator_threads:
        parameters["intra_op_thread_count"] = tc.Parameter(str(options.generator_threads))
    if role == "encoder":  # several clients may show one picture; that they want one image is rare
        parameters["equal_rows_once"] = tc.Parameter("true")
    if runs_staged(options, role):  # model.py beside the graph
        backend = "python"
        parameters["library"] = tc.Parameter(options.cpu_backend)
    return tc.ModelConfig(
        **common
        | {
            "backend": backend,
            "model_warmup": (_warm_up("one", 1, inputs),),
            "instance_group": (tc.InstanceGroup(tc.CPU, count),),
            "parameters": parameters,
        }
    )


def runs_staged(options: RepositoryOptions, role: str) -> bool:
    """Whether a CPU runs this graph in a stage of ours, by a library for which Triton has no backend.

    Neighbours are found in float32 by ONNX Runtime whatever runs the rest.
    """
    return options.cpu_backend != "onnxruntime" and role != "lookup"


def _found(served: ServedModel) -> Tensors:
    k = served.neighbours
    return tc.Tensor("ids", tc.INT64, (k,)), tc.Tensor("scores", tc.FP32, (k,))


def _condition(served: ServedModel, cpu: bool = False) -> tc.ModelConfig:
    model, k, search = served.model, served.neighbours, served.options.search
    inputs: Tensors = (tc.Tensor("embedding", tc.FP32, (model.embedding_dim,)),)
    if search == "graph":
        inputs += _found(served)
    # rows, or one of each scalar per embedding
    inputs += (_packed_rows(optional=True),)
    inputs += tuple(dataclasses.replace(tensor, optional=True) for tensor in _scalars(model))
    outputs: Tensors = (
        tc.Tensor("noise", tc.FP32, (model.dim_z,)),
        tc.Tensor("conditioning", tc.FP32, (model.embedding_dim,)),
        tc.Tensor("EMBEDDING", tc.FP32, (model.embedding_dim,)),
        tc.Tensor("NEIGHBOUR_IDS", tc.INT64, (k,)),
        tc.Tensor("NEIGHBOUR_SCORES", tc.FP32, (k,)),
        # there for every bank, with empty names where it has none: banks with and without can be exchanged
        tc.Tensor("NEIGHBOUR_NAMES", tc.BYTES, (k,)),
        tc.Tensor("OUTSIDE_BELOW", tc.FP32, (1,)),
        tc.Tensor("BANK_STATE", tc.BYTES, (1,)),
        # again, for the stage that writes files: a tensor that is an output and an input of a step, and is
        # not asked for, has the server take the request for a deadlock
        tc.Tensor("state", tc.BYTES, (1,)),
    )
    if served.labelled:
        outputs += (
            tc.Tensor("NEIGHBOUR_LABELS", tc.INT64, (k,)),
            tc.Tensor("NEIGHBOUR_CLASSES", tc.BYTES, (k,)),
        )
    if model.classes:
        outputs += (tc.Tensor("label", tc.INT64, (1,)),)
    group = tc.InstanceGroup(tc.CPU, served.options.condition_processes)
    if search == "faiss-gpu" and not cpu:
        group = tc.InstanceGroup(tc.GPU)  # a second would hold a bank of its own there
    if search == "faiss-gpu" and cpu:
        search = "faiss"
    return _python(
        served,
        "icgan_condition",
        inputs,
        outputs,
        max_batch_size=TAKEN_IN * served.options.max_batch,
        instance_group=(group,),
        parameters={"search": tc.Parameter(search), **_limits(served)},
    )


def _picture(served: ServedModel) -> tc.ModelConfig:
    inputs: Tensors = (_generated_tensor(served, "GENERATED"), tc.Tensor("FORMAT", tc.BYTES, (1,)))
    # for what a file claims of its origin; whoever asks this stage alone need not know
    inputs += tuple(dataclasses.replace(tensor, optional=True) for tensor in _scalars(served.model))
    inputs += (tc.Tensor("state", tc.BYTES, (1,), optional=True),)
    parameters = {
        "classes": tc.Parameter(str(served.model.classes)),
        "threads": tc.Parameter(str(served.options.decoders)),
        **_limits(served),
    }
    outputs = (tc.Tensor("PICTURE", tc.BYTES, (1,)),)
    return _python(
        served,
        "icgan_picture",
        inputs,
        outputs,
        max_batch_size=TAKEN_IN * served.options.max_batch,
        parameters=parameters,
    )


def _scalars(model: Model) -> Tensors:
    """What every row says besides its picture."""
    scalars = (
        tc.Tensor("SEED", tc.INT64, (1,)),
        tc.Tensor("SAMPLE", tc.INT64, (1,)),
        tc.Tensor("TRUNCATION", tc.FP32, (1,)),
        tc.Tensor("CONDITION", tc.INT32, (1,)),
    )
    return (*scalars, tc.Tensor("LABEL", tc.INT64, (1,))) if model.classes else scalars


def _ensemble(served: ServedModel, ensemble: Ensemble, versions: Mapping[str, int]) -> tc.ModelConfig:
    """An ensemble: its tensors in capitals are those that docs/serving.md names, or private to it."""
    scalars = _scalars(served.model)
    label = {"label": "CHECKED_LABEL"} if served.model.classes else {}
    state = {"state": "STATE"} if ensemble.as_file else {}
    steps: list[tc.Step] = []

    def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        steps.append(tc.Step(model, versions.get(model, 1), inputs, outputs))

    asked = {tensor.name: tensor.name for tensor in scalars}
    if ensemble.source == "EMBEDDING":
        embedding, rows, answer = "EMBEDDING", asked, {"EMBEDDING": FOLLOWED} if served.prior else {}
    else:
        embedding, rows, answer = "EMBEDDINGS", {"rows": "ROWS"}, {"EMBEDDING": "EMBEDDING"}
        from_file = ensemble.source == "IMAGE"
        # First in the list, whatever runs first: an input that only a step left out needs, as FORMAT where no
        # file is asked for, counts with the server (2.51) as an output of the first step that nobody wants. A
        # step of one output would be left out, too.
        step(
            "icgan_preprocess",
            {ensemble.source: "ADMITTED" if from_file else ensemble.source, **asked},
            {"image": "PICTURES", "rows": "ROWS"},
        )
        if from_file:
            step("icgan_admit", {"IMAGE": "IMAGE"}, {"IMAGE": "ADMITTED"})
        step("icgan_encoder", {"image": "PICTURES"}, {"embedding": embedding})
    found = {"ids": "IDS", "scores": "SCORES"} if served.options.search == "graph" else {}
    if found:
        step("icgan_lookup", {"embedding": embedding}, found)
    told = ("NEIGHBOUR_IDS", "NEIGHBOUR_SCORES", "NEIGHBOUR_NAMES", "OUTSIDE_BELOW", "BANK_STATE")
    answer |= {name: name for name in told}
    answer |= {name: name for name in ("NEIGHBOUR_LABELS", "NEIGHBOUR_CLASSES")} if served.labelled else {}
    step(
        "icgan_condition",
        {"embedding": embedding, **found, **rows},
        {"noise": "NOISE", "conditioning": "CONDITIONING", **answer, **label, **state},
    )
    # checked by the stage before, as the noise is made there
    psi = {"truncation": "TRUNCATION"} if served.model.truncation == "mean-w" else {}
    noise = {"noise": "NOISE", "embedding": "CONDITIONING"}
    step("icgan_generator", {**noise, **label, **psi}, {"image": "GENERATED"})
    if ensemble.as_file:
        drawn = {"GENERATED": "GENERATED", "FORMAT": "FORMAT", **state}
        step("icgan_picture", drawn | asked, {"PICTURE": "PICTURE"})
    inputs = (_source(served, ensemble.source), *scalars)
    outputs = tuple(
        dataclasses.replace(tensor, name=answer[tensor.name])
        for tensor in _condition(served).output
        if tensor.name in answer
    )
    if ensemble.as_file:
        inputs += _picture(served).input[1:2]
    pictures = _picture(served).output if ensemble.as_file else (_generated_tensor(served, "GENERATED"),)
    return tc.ModelConfig(
        ensemble.name,
        served.options.max_batch,
        inputs,
        (*pictures, *outputs),
        platform="ensemble",
        # clients learn here what they talk to
        parameters={
            "model": tc.Parameter(json.dumps(to_json(served.model), ensure_ascii=False)),
            **({REPEATS: tc.Parameter("true")} if ensemble.source == "IMAGE" else {}),
            **({PRIOR: tc.Parameter("true")} if served.prior else {}),
        },
        ensemble_scheduling=tc.EnsembleScheduling(tuple(steps)),
    )


def _source(served: ServedModel, name: str) -> tc.Tensor:
    if name == "EMBEDDING":
        return tc.Tensor(name, tc.FP32, (served.model.embedding_dim,))
    found = next(tensor for tensor in _preprocess(served).input if tensor.name == name)
    return dataclasses.replace(found, optional=False)


def _warm_up(name: str, batch: int, inputs: Tensors) -> tc.WarmUp:
    """Recorded rows of the bundle's samples, one file per tensor (written by repository.py)."""
    return tc.WarmUp(
        name,
        batch,
        {tensor.name: tc.WarmUpInput(tensor.data_type, tensor.dims, tensor.name) for tensor in inputs},
    )
