"""Measure memory in a separate process: a benchmark runs itself again for one measurement.

This module imports only small modules, so that the process starts small.
"""

import json
import pathlib
import re
import subprocess
import sys


def run_again(script: str, *flags) -> dict:
    """Runs a script with flags, and returns the JSON in the last line of its output."""
    command = [sys.executable, script, *map(str, flags)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def peak_mib() -> int:
    """Returns the peak resident memory of this process in MiB since its start or `forget_peak`.

    It includes libraries and pages of mapped files.
    """
    # getrusage would return the parent's peak, from before exec.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def forget_peak():
    """Resets the peak to the current memory."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
