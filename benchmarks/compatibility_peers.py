"""One other program on one of our graphs, in an environment of its own; `benchmarks.compatibility` starts it.

    python benchmarks/compatibility_peers.py PEER GRAPH.onnx FEEDS.npz OUT

A rewriter leaves OUT/model.onnx; a runtime leaves its answers as OUT/answers.npz, and how many times faster
than ONNX Runtime it was. Both leave OUT/said.json. Imports nothing of this project: numpy, onnx, onnxruntime
and the library of the peer are all there is.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]
ROUNDS, WARM_UP = 7, 1
MOST_SECONDS = 20.0  # of one route's rounds: slow runtimes have fewer


# Programs that write a graph anew.


def onnxslim(source: Path, out: Path, feeds: Arrays) -> None:
    import onnxslim

    onnxslim.slim(str(source), str(out))


def onnxsim(source: Path, out: Path, feeds: Arrays) -> None:
    import onnxsim

    made, same = onnxsim.simplify(onnx.load(source))
    if not same:
        raise RuntimeError("its own check fails")
    onnx.save(made, out)


def onnxoptimizer(source: Path, out: Path, feeds: Arrays) -> None:
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), out)


def onnxscript(source: Path, out: Path, feeds: Arrays) -> None:
    import onnxscript.optimizer

    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), out)


def polygraphy(source: Path, out: Path, feeds: Arrays) -> None:
    command = ["polygraphy", "surgeon", "sanitize", "--fold-constants", str(source), "-o", str(out)]
    _command([str(Path(sys.executable).with_name(command[0])), *command[1:]])


def graphsurgeon(source: Path, out: Path, feeds: Arrays) -> None:
    import onnx_graphsurgeon

    graph = onnx_graphsurgeon.import_onnx(onnx.load(source))
    onnx.save(onnx_graphsurgeon.export_onnx(graph.cleanup().toposort()), out)


def saved_by_onnxruntime(source: Path, out: Path, feeds: Arrays) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def ort_format(source: Path, out: Path, feeds: Arrays) -> None:
    place = out.parent / "converted"
    place.mkdir()
    (place / "model.onnx").write_bytes(source.read_bytes())
    command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(place)]
    _command([*command, "--optimization_style", "Fixed"])
    (place / "model.ort").rename(out.with_suffix(".ort"))


def opset_21(source: Path, out: Path, feeds: Arrays) -> None:
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), 21), out)


def symbolic_shapes(source: Path, out: Path, feeds: Arrays) -> None:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    onnx.save(SymbolicShapeInference.infer_shapes(onnx.load(source), auto_merge=True), out)


def quant_pre_process(source: Path, out: Path, feeds: Arrays) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(out), auto_merge=True)  # else it stops at the sum behind a Resize


def quantize_dynamic(source: Path, out: Path, feeds: Arrays) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(source), str(out), weight_type=QuantType.QUInt8)


def quantize_static(source: Path, out: Path, feeds: Arrays) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Pinned(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter([{name: array[at : at + 8] for name, array in feeds.items()} for at in (0, 8)])

        def get_next(self) -> Arrays | None:
            return next(self.rows, None)

    prepared = out.with_name("prepared.onnx")
    quant_pre_process(source, prepared, feeds)
    quantize_static(str(prepared), str(out), Pinned(), per_channel=True)


def float16_of_onnxruntime(source: Path, out: Path, feeds: Arrays) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), out)


def float16_of_onnxconverter(source: Path, out: Path, feeds: Arrays) -> None:
    from onnxconverter_common.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), out)


# Runtimes.


def onnxruntime_cpu(source: Path, out: Path, feeds: Arrays) -> Run:
    options = exact_integers()
    options.intra_op_num_threads = 1
    return _of_session(ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]))


def exact_integers() -> ort.SessionOptions:
    """As the runtime sets it: without VNNI the quicker kernels for INT8 overflow."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def openvino(source: Path, out: Path, feeds: Arrays) -> Run:
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1,
    }  # fmt: skip
    compiled = ov.Core().compile_model(source, "CPU", settings)
    names = [port.get_any_name() for port in compiled.outputs]
    return lambda given: {
        name: np.array(found) for name, found in zip(names, compiled(given).values(), strict=True)
    }


def onnx_reference(source: Path, out: Path, feeds: Arrays) -> Run:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(source))
    return lambda given: dict(zip(evaluator.output_names, evaluator.run(None, given), strict=True))


def opencv(source: Path, out: Path, feeds: Arrays) -> Run:
    import cv2

    net, names = cv2.dnn.readNetFromONNX(str(source)), _outputs(source)

    def run(given: Arrays) -> Arrays:
        for name, array in given.items():
            net.setInput(array, name)
        return {name: np.array(found) for name, found in zip(names, net.forward(names), strict=True)}

    return run


def tract(source: Path, out: Path, feeds: Arrays) -> Run:
    import tract

    runnable = tract.onnx().load(str(source)).into_model().into_runnable()
    names = _outputs(source)
    return lambda given: {
        name: found.to_numpy() for name, found in zip(names, runnable.run(list(given.values())), strict=True)
    }


def tinygrad(source: Path, out: Path, feeds: Arrays) -> Run:
    from tinygrad import Tensor
    from tinygrad.nn.onnx import OnnxRunner

    runner = OnnxRunner(str(source))
    return lambda given: {
        name: found.numpy() for name, found in runner({n: Tensor(a) for n, a in given.items()}).items()
    }


def iree(source: Path, out: Path, feeds: Arrays) -> Run:
    import iree.compiler
    import iree.runtime

    def tool(name: str, *options: str) -> None:
        _command([str(Path(sys.executable).with_name(name)), *options])

    text, code = out.with_suffix(".mlir"), out.with_suffix(".vmfb")
    tool("iree-import-onnx", str(source), "-o", str(text))
    tool(
        "iree-compile", str(text), "-o", str(code), "--iree-hal-target-device=local",
        "--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host",
    )  # fmt: skip
    module = iree.runtime.load_vm_flatbuffer_file(str(code), driver="local-sync")
    (main,) = [
        name for name in module.vm_module.function_names if not name.startswith("__") and "$" not in name
    ]
    output = onnx.load(source).graph.output

    def run(given: Arrays) -> Arrays:
        found = module[main](*given.values())
        several = found if isinstance(found, tuple | list) else [found]
        arrays = {value.name: np.array(array) for value, array in zip(output, several, strict=True)}
        return {
            name: array.view(np.uint8) if array.dtype == np.int8 else array for name, array in arrays.items()
        }

    return run


def tvm(source: Path, out: Path, feeds: Arrays) -> Run:
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    shapes = {name: list(array.shape) for name, array in feeds.items()}
    made = relax.transform.LegalizeOps()(from_onnx(onnx.load(source), shape_dict=shapes))
    machine = relax.VirtualMachine(tvm.compile(made, target="llvm"), tvm.cpu())
    names = _outputs(source)

    def run(given: Arrays) -> Arrays:
        found = machine["main"](*[tvm.runtime.tensor(array) for array in given.values()])
        several = [found] if hasattr(found, "numpy") else list(found)
        return {name: each.numpy() for name, each in zip(names, several, strict=True)}

    return run


def mnn(source: Path, out: Path, feeds: Arrays) -> Run:
    import MNN.expr as expr
    import MNN.nn as nn

    made = out.with_suffix(".mnn")
    # the function: the command of that name asks pip for something on the way
    program = "import MNN, sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
    command = [sys.executable, "-c", program, "-f", "ONNX", "--modelFile", str(source)]
    _command([*command, "--MNNModel", str(made), "--bizCode", "peer"])
    settings = ({"backend": "CPU", "numThread": 1, "precision": "high"},)
    manager = nn.create_runtime_manager(settings)
    names, kinds = _outputs(source), {"float32": expr.float, "uint8": expr.uint8, "int64": expr.int}
    module = nn.load_module_from_file(str(made), list(feeds), names, runtime_manager=manager)

    def run(given: Arrays) -> Arrays:
        placed = []
        for array in given.values():
            variable = expr.placeholder(list(array.shape), expr.NCHW, kinds[array.dtype.name])
            variable.write(np.ascontiguousarray(array))
            placed.append(variable)
        return {name: np.array(one.read()) for name, one in zip(names, module.forward(placed), strict=True)}

    return run


def ncnn(source: Path, out: Path, feeds: Arrays) -> Run:
    import ncnn
    import pnnx

    shapes = ",".join(str([1, *array.shape[1:]]).replace(" ", "") for array in feeds.values())
    copy = out.with_name("graph.onnx")
    copy.write_bytes(source.read_bytes())
    _command([pnnx.EXEC_PATH, copy.name, f"inputshape={shapes}", "fp16=0"], cwd=out.parent)
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    if any(
        load(str(copy.with_suffix(f".ncnn.{end}")))
        for load, end in ((net.load_param, "param"), (net.load_model, "bin"))
    ):
        raise RuntimeError("what pnnx wrote is not loaded")
    (output,) = _outputs(source)[:1]

    def run(given: Arrays) -> Arrays:
        rows = []
        for row in range(_rows(given)):
            extractor = net.create_extractor()
            for index, array in enumerate(given.values()):
                extractor.input(f"in{index}", ncnn.Mat(np.ascontiguousarray(array[row])).clone())
            status, found = extractor.extract("out0")
            if status:
                raise RuntimeError(f"extract answers {status}")
            rows.append(np.array(found))
        return {output: np.stack(rows)}

    return run


REWRITERS: dict[str, Callable[[Path, Path, Arrays], None]] = {
    "onnxslim": onnxslim, "onnxsim": onnxsim, "onnxoptimizer": onnxoptimizer, "onnxscript": onnxscript,
    "polygraphy": polygraphy, "graphsurgeon": graphsurgeon, "saved_by_onnxruntime": saved_by_onnxruntime,
    "ort_format": ort_format, "opset_21": opset_21, "symbolic_shapes": symbolic_shapes,
    "quant_pre_process": quant_pre_process, "quantize_dynamic": quantize_dynamic,
    "quantize_static": quantize_static, "float16_of_onnxruntime": float16_of_onnxruntime,
    "float16_of_onnxconverter": float16_of_onnxconverter,
}  # fmt: skip
RUNTIMES: dict[str, Callable[[Path, Path, Arrays], Run]] = {
    "openvino": openvino, "onnx_reference": onnx_reference, "opencv": opencv, "tract": tract,
    "tinygrad": tinygrad, "iree": iree, "tvm": tvm, "mnn": mnn, "ncnn": ncnn,
}  # fmt: skip


def _of_session(session: Any) -> Run:
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, given), strict=True))


def _outputs(source: Path) -> list[str]:
    return [value.name for value in onnx.load(source).graph.output]


def _rows(feeds: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(feeds.values())))


def _command(words: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise RuntimeError(f"status {done.returncode}: {said[-1] if said else 'without a word'}")


def compare_speed(peer: Run, source: Path, out: Path, feeds: Arrays) -> float:
    """How many times faster than ONNX Runtime on one thread: lower quartiles of processor time, in turn."""
    routes = [onnxruntime_cpu(source, out, feeds), peer]
    taken: list[list[float]] = [[], []]
    for number in range(-WARM_UP, ROUNDS):
        for index in (number % 2, 1 - number % 2):
            began = time.process_time()
            routes[index](feeds)
            if number >= 0:
                taken[index].append(time.process_time() - began)
        if sum(taken[1]) > MOST_SECONDS and len(taken[1]) >= 2:
            break
    ours, theirs = (statistics.quantiles(times, n=4, method="inclusive")[0] for times in taken)
    return ours / theirs


def main() -> None:
    name, source, feeds_path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    with np.load(feeds_path) as stored:
        feeds = {key: np.ascontiguousarray(stored[key]) for key in stored.files}
    said: dict[str, Any] = {"versions": {key: version(key) for key in os.environ["PEER_PACKAGES"].split()}}
    try:
        if name in REWRITERS:
            REWRITERS[name](source, out / "model.onnx", feeds)
        else:
            run = RUNTIMES[name](source, out / "model.onnx", feeds)
            np.savez(out / "answers.npz", **run(feeds))
            eight = {key: array[:8] for key, array in feeds.items()}
            try:
                run(eight)
            except Exception:  # compiled for the rows it was given
                eight = feeds
            said["times_faster"] = compare_speed(run, source, out, eight)
    except Exception as error:
        said["error"] = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    (out / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
