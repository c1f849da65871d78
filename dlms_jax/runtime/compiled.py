"""Compiled programs kept on disk, so that a restarted run does not compile again."""

import os
import pathlib

import jax


def keep_compiled(workdir: pathlib.Path) -> pathlib.Path | None:
    """Has JAX keep compiled programs on disk; returns where, or None where they are not kept.

    Where the environment or the program has said where, there. Else one process keeps them in the
    user's cache, for all runs; several in the workdir, which all their machines share.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and not jax.config.jax_compilation_cache_dir:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        folder = cache / "dlms_jax" if jax.process_count() == 1 else workdir.absolute()
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    folder = jax.config.jax_compilation_cache_dir
    return pathlib.Path(folder) if folder and jax.config.jax_enable_compilation_cache else None


class CacheHits:
    """A context that counts how many programs were found on disk in it."""

    number = 0

    def __enter__(self):
        jax.monitoring.register_event_listener(self._count)
        return self

    def __exit__(self, *_):
        jax.monitoring.unregister_event_listener(self._count)

    def _count(self, event: str, **_):
        self.number += event == "/jax/compilation_cache/cache_hits"
