"""Where a Triton server for this machine lives, and what it is made of.

The server binary comes with the wheel `nvidia-pytriton` (extra `serve`). That wheel pins numpy<2, so it may
live in an environment of its own: `find_environment` takes the folder named by ICGAN_SERVE_ENV, or else the
current interpreter, or else `.venv-serve` of this checkout, which `make serve-env` makes. Nothing is run from
the current folder: that may be a stranger's bundle.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from icgan_runtime.errors import BackendError, MissingExtraError

ENVIRONMENT_VARIABLE = "ICGAN_SERVE_ENV"

# Run by the interpreter of the environment in question, hence no import of ours.
_PROBE = """
import importlib.util, json, sys, sysconfig
spec = importlib.util.find_spec("pytriton")
print(json.dumps({
    "package": spec and spec.submodule_search_locations[0],
    "runtime": importlib.util.find_spec("icgan_runtime") is not None,
    "library": sysconfig.get_config_var("LIBDIR"),
    "version": sysconfig.get_config_var("py_version_short"),
}))
"""


@dataclass(frozen=True)
class Environment:
    """An interpreter with nvidia-pytriton, and where that wheel keeps the server's parts."""

    python: Path
    package: Path  # site-packages/pytriton
    library: Path  # holds libpythonX.Y.so, which the server's Python processes are linked against
    version: str  # "3.11"

    @property
    def server(self) -> Path:
        """The tritonserver binary and its neighbours."""
        return self.package / "tritonserver"

    def variables(self) -> dict[str, str]:
        """The process environment under which the server and its Python processes start.

        The Python processes ignore PYTHONPATH; they find their packages through the first python on PATH.
        """
        libraries = [str(self.package.parent / "nvidia_pytriton.libs"), str(self.library)]
        inherited = os.environ.get("LD_LIBRARY_PATH")
        return {
            "OMP_WAIT_POLICY": "PASSIVE",  # faiss would spin on cores that the next stage needs
            **os.environ,
            "LD_LIBRARY_PATH": ":".join([*libraries, inherited] if inherited else libraries),
            "PATH": f"{self.python.parent}:{os.environ.get('PATH', os.defpath)}",
        }


def find_environment() -> Environment:
    """The first environment that can serve. Raises MissingExtraError when there is none."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    candidates = [Path(named)] if named else [Path(sys.prefix), Path(__file__).parents[3] / ".venv-serve"]
    for folder in candidates:
        python = folder.absolute() / "bin" / "python"
        if not python.exists():
            continue
        safe = {**os.environ, "PYTHONSAFEPATH": "1"}  # as -P, which pythons that are too old do not know
        asked = subprocess.run([python, "-c", _PROBE], check=True, capture_output=True, env=safe)
        found = json.loads(asked.stdout)
        if found["package"] is None:
            continue
        if not found["runtime"]:
            raise BackendError(
                f"{folder} has a Triton server but not this package: {python} -m pip install {_package()}"
            )
        return Environment(python, Path(found["package"]), Path(found["library"]), found["version"])
    if named:
        remedy = f"{named}/bin/pip install '{_package()}[serve]'"
        raise BackendError(f"{ENVIRONMENT_VARIABLE}={named} has no Triton server: {remedy}")
    raise MissingExtraError("nvidia-pytriton", "serve")


def _package() -> str:
    """What pip is asked for in an environment that lacks this package: the checkout, where this is one."""
    checkout = Path(__file__).parents[3]
    return str(checkout) if (checkout / "pyproject.toml").is_file() else "icgan"


def model_sources() -> Path:
    """`triton_models/`: at the root of a checkout, or where a wheel installs its shared data."""
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    places = [Path(__file__).parents[3] / "triton_models"]
    places += [
        Path(sysconfig.get_path("data", each)) / "share" / "icgan" / "triton_models" for each in schemes
    ]
    for place in places:
        if place.is_dir():
            return place
    raise BackendError(
        f"this package's triton_models is in none of {', '.join(map(str, places))}: install it anew"
    )


def assemble_backends(environment: Environment, folder: Path) -> Path:
    """A backend directory: the wheel's python backend with the matching stub, and our ONNX one."""
    python = folder / "python"
    python.mkdir(parents=True)
    # copies: the server refuses a backend library that is a link out of its folder
    for source in (environment.server / "backends" / "python").iterdir():
        if source.is_file():
            shutil.copy(source, python)
    stub = environment.server / "python_backend_stubs" / environment.version / "triton_python_backend_stub"
    if not stub.exists():
        raise BackendError(f"nvidia-pytriton has no server part for Python {environment.version}")
    shutil.copy(stub, python)
    shutil.copytree(model_sources() / "backends" / "onnxruntime", folder / "onnxruntime")
    return folder
