"""What all tests share: 8 fake CPU devices, strict broadcasting, compiled programs kept on disk."""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile more than they compute: level 0 takes two thirds of the time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

# XLA's CPU threads, as many as cores by default, block in collectives: 8 devices that wait in two
# independent ones would leave none to go on (and abort after a minute).
os.environ.setdefault("NPROC", "32")

import jax  # noqa: E402
import pytest  # noqa: E402

from dlms_jax.diffusion import Vocabulary  # noqa: E402

CACHE = pathlib.Path(tempfile.gettempdir()) / f"dlms_jax_tests_{os.getuid()}"

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def one_device():
    """A mesh of one device, whatever number there is."""
    from dlms_jax.parallel.mesh import make_mesh

    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture
def stop_after(monkeypatch):
    """Returns a function that makes the next run believe in a SIGTERM after some steps."""
    from dlms_jax.runtime import loop

    def arrange(steps):
        class Signals:
            asked = 0

            def __enter__(self):
                return self

            def __exit__(self, *_):
                monkeypatch.undo()

            def at(self, step):
                Signals.asked += 1
                return "SIGTERM" if Signals.asked >= steps else None

        monkeypatch.setattr(loop, "StopSignals", Signals)

    return arrange


@pytest.fixture
def vocabulary() -> Vocabulary:
    """Five symbols of text and the special ones."""
    return Vocabulary(size=9, pad_id=5, bos_id=6, eos_id=7, mask_id=8)
