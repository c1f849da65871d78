"""Calls in worker processes, with one progress bar; a failure or Ctrl-C ends all of them."""

from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
from concurrent.futures.process import BrokenProcessPool
import multiprocessing
from multiprocessing.process import BaseProcess
import os
import signal
import threading
from typing import Any

from rich.console import Console

from dlms_jax.errors import UserError
from dlms_jax.terminal import byte_progress

_processes = multiprocessing.get_context("spawn")
_COUNTED = 1 << 16  # bytes of work that are counted together: the counter's lock takes microseconds
_done = None  # bytes of finished work, of all processes; None: no progress is counted
_uncounted = 0  # bytes of this process's work that are not in _done yet


def advance(size: int) -> None:
    """Counts bytes of finished work, for the progress bar of `run_in_workers`."""
    global _uncounted
    _uncounted += size
    if _uncounted >= _COUNTED:
        _count()


def run_in_workers(
    function: Callable[..., Any],
    calls: Iterable[tuple],
    workers: int,
    console: Console,
    title: str,
    total: int | None,
) -> Iterator[Any]:
    """Yields function(*call) of each call as they end, with a bar of bytes, rate and time left.

    Args:
      function: what is called; it reports its progress with `advance`.
      calls: the arguments of each call.
      workers: the number of processes; 1: a thread of this process.
      console: where the bar is shown.
      title: the text beside the bar.
      total: the bytes that the calls will report; None: unknown.

    Raises:
      UserError: a worker process was killed.
    """
    global _done, _uncounted
    calls = list(calls)
    _done, _uncounted = _processes.Value("q", 0), 0
    workers = min(workers, max(len(calls), 1))
    executor = _executor(workers)
    processes: list[BaseProcess] = []
    try:
        with byte_progress(console) as progress:
            bar = progress.add_task(title, total=total)
            waiting = {executor.submit(_call, function, call) for call in calls}
            processes += (getattr(executor, "_processes", None) or {}).values()
            while waiting:
                ended, waiting = concurrent.futures.wait(
                    waiting, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED
                )
                progress.update(bar, completed=_done.value)
                for future in ended:
                    yield future.result()
            progress.update(bar, completed=_done.value, total=_done.value)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed (out of memory?); run the same command again with fewer "
            "--workers: it continues where it stopped"
        ) from None
    finally:
        # On a busy machine, some processes may have started since.
        now = (getattr(executor, "_processes", None) or {}).values()
        processes += [process for process in now if process not in processes]
        # A thread ends its call first, so that nothing is written after this; processes are killed.
        executor.shutdown(wait=workers == 1, cancel_futures=True)
        for process in processes:
            process.terminate()
            process.join()


def _call(function, arguments):
    try:
        return function(*arguments)
    finally:
        _count()


def _count():
    global _uncounted
    if _done is not None:
        with _done.get_lock():
            _done.value += _uncounted
    _uncounted = 0


def _executor(workers):
    if workers == 1:
        return concurrent.futures.ThreadPoolExecutor(1)
    return concurrent.futures.ProcessPoolExecutor(workers, _processes, _start, (_done,))


def _start(done):
    """Makes a worker process count into the caller's counter, and leave Ctrl-C to the caller."""
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker that outlived its caller would write beside the run that continues its work.
    threading.Thread(target=_end_with_caller, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core for each worker


def _end_with_caller():
    multiprocessing.parent_process().join()
    os._exit(1)
