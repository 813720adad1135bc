"""The mutation benchmark: what it leaves out is said here, and nothing else."""

import importlib

mutation = importlib.import_module("benchmarks.mutation")


def test_no_module_of_the_runtime_is_forgotten():
    package = mutation.ROOT / "runtime" / "icgan_runtime"
    modules = {path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py")}
    # the logger is a class of TensorRT's; the others run nothing
    left_out = {"__init__", "__main__", "backends/__init__", "backends/trt_logger"}
    assert set(mutation.FILES) == modules - left_out
