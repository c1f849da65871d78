"""What the TPU compiler needs where no TPU is; it must be set before JAX is imported."""

import importlib.util
import os

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not ask Google's metadata server what this machine is
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # any: --topology says which, but it asks
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans at a time, or one beside a run
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # a program without its chips cannot be read again
}


def have_libtpu() -> bool:
    """Returns whether the TPU compiler is installed (a folder of that name is not it)."""
    found = importlib.util.find_spec("libtpu")
    return found is not None and found.origin is not None


def set_environment():
    """Sets what libtpu needs, and JAX to the CPU; what else the user has set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["JAX_PLATFORMS"] = "cpu"
