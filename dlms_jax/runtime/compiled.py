"""Compiled programs kept on disk, so that a restarted run does not compile again."""

from collections.abc import Callable
import os
import pathlib

import jax

from dlms_jax.parallel import hosts
from dlms_jax.training.state import TrainState


def keep_compiled(workdir: pathlib.Path) -> pathlib.Path | None:
    """Makes JAX keep compiled programs on disk; returns the folder, or None if JAX keeps none.

    The folder is that of JAX_COMPILATION_CACHE_DIR (or of jax.config) if set. Otherwise a single
    process uses the user's cache, shared by all runs, and several processes use the workdir, which
    their machines share.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # set by name
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and not folder:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        own = cache / "dlms_jax" if jax.process_count() == 1 else workdir.absolute()
        folder = str(own / "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]  # set by name
    return pathlib.Path(folder) if folder and enabled else None


class CacheHits:
    """A context that counts the programs that were found in the cache."""

    number = 0

    def __enter__(self):
        jax.monitoring.register_event_listener(self._count)
        return self

    def __exit__(self, *_):
        jax.monitoring.unregister_event_listener(self._count)

    def _count(self, event: str, **_):
        self.number += event == "/jax/compilation_cache/cache_hits"


class CompiledStep:
    """A train step that is compiled when it is first run, which may take minutes."""

    def __init__(self, step, frozen, cache: pathlib.Path | None, say: Callable[[str], None]):
        """step: the jitted step (training/step.py). frozen: its frozen weights. cache: where
        compiled programs are kept, for a message."""
        self._step, self._frozen, self._cache, self._say = step, frozen, cache, say
        self.compiled = False

    def __call__(self, state: TrainState, batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """Returns (state, metrics) after a step; the state passed in is consumed."""
        return self._step(state, self._frozen, batch)

    def compile_and_run(self, state: TrainState, batch):
        """Compiles the step on all processes; returns its first results when they are there."""
        self._say("compiling the train step ...")
        with CacheHits() as found:
            self._step = self._step.lower(state, self._frozen, batch).compile()
        hosts.wait_long_for_all()
        if found.number:
            self._say(f"the train step was found compiled, in {self._cache}")
        self.compiled = True
        return jax.block_until_ready(self(state, batch))
