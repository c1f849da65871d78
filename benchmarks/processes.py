"""Memory of a process of its own: a benchmark that runs itself again for one thing to be measured.

It imports nothing large, so that what is measured begins small.
"""

import json
import pathlib
import re
import subprocess
import sys


def run_again(script: str, *flags) -> dict:
    """Returns what a script, run with these flags, prints as its last line, in JSON."""
    command = [sys.executable, script, *map(str, flags)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def peak_mib() -> int:
    """Returns the most that was in memory of this process at once, libraries and pages of mapped
    files too, since it began or since `forget_peak`."""
    # Not getrusage: its peak is the parent's, from before exec.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def forget_peak():
    """Lets the peak begin again at what is in memory now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
