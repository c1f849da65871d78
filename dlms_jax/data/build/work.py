"""Work in parallel processes, with one progress bar; a failure or Ctrl-C ends all of them."""

from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
from concurrent.futures.process import BrokenProcessPool
import multiprocessing
import os
import signal
import threading
from typing import Any

from rich.console import Console

from dlms_jax.errors import UserError
from dlms_jax.terminal import byte_progress

_processes = multiprocessing.get_context("spawn")
_done = _processes.Value("q", 0)  # bytes of work, by all processes


def advance(number: int):
    """Counts bytes of work that are done, for the progress bar of whoever called `run`."""
    with _done.get_lock():
        _done.value += number


def run(
    function: Callable[..., Any], calls: Iterable[tuple], workers: int, console: Console,
    title: str, total: int | None,
) -> Iterator[Any]:  # fmt: skip
    """Yields function(*call) of each call as they end, while a bar shows bytes, rate and time left.

    workers: processes; 1: this one. total: bytes that the calls will `advance`; None: unknown.
    """
    calls = list(calls)
    _done.value = 0
    workers = min(workers, max(len(calls), 1))
    executor, processes = _executor(workers), []
    try:
        with byte_progress(console) as progress:
            bar = progress.add_task(title, total=total)
            waiting = {executor.submit(function, *call) for call in calls}
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
            "--workers: it goes on where it was"
        ) from None
    finally:
        # Some may have been started since, on a busy machine.
        now = (getattr(executor, "_processes", None) or {}).values()
        processes += [process for process in now if process not in processes]
        # A thread ends its call first, so that nothing is written after this; processes are ended.
        executor.shutdown(wait=workers == 1, cancel_futures=True)
        for process in processes:
            process.terminate()
            process.join()


def _executor(workers):
    if workers == 1:
        return concurrent.futures.ThreadPoolExecutor(1)
    return concurrent.futures.ProcessPoolExecutor(workers, _processes, _start, (_done,))


def _start(done):
    """Makes a worker process count into the caller's counter, and leave Ctrl-C to the caller."""
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A worker that outlived its caller would write beside the run that goes on.
    threading.Thread(target=_end_with_caller, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a worker


def _end_with_caller():
    multiprocessing.parent_process().join()
    os._exit(1)
