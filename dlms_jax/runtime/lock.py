"""One run in a workdir at a time: a lock that ends with its process, however it ends."""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import pathlib
import socket

from dlms_jax.errors import UserError

FILE = "lock"


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a workdir, which is made if it does not exist.

    The kernel releases the lock when the process ends, so none is ever left behind. Where the file
    system has no locks (some network ones), nothing is locked.

    Raises:
      UserError: another process trains in this workdir.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / FILE, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{workdir} is in use by {_owner(file)}; wait for its end, or use another --workdir"
            ) from None
        except OSError:  # no locks here
            yield
            return
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "process": os.getpid()}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _owner(file) -> str:
    """Returns the process that holds the lock, as it wrote itself down."""
    file.seek(0)
    try:
        owner = json.load(file)
        return f"process {owner['process']} of {owner['host']}"
    except (ValueError, KeyError, TypeError):  # it is just starting, or ending
        return "another process"
