"""Environment variables for compiling without a TPU; set them before JAX is imported."""

import importlib.util
import os

_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # do not query Google's metadata server
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # any value: libtpu requires one, --topology overrides it
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # allows two plans at a time, or a plan during a run
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # a program cannot be loaded from it without its chips
}


def have_libtpu() -> bool:
    """Returns whether the TPU compiler is installed (a mere folder of that name does not count)."""
    found = importlib.util.find_spec("libtpu")
    return found is not None and found.origin is not None


def set_environment():
    """Sets libtpu's variables unless the user has set them, and always JAX_PLATFORMS=cpu."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["JAX_PLATFORMS"] = "cpu"
