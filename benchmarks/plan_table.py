"""Make the table of docs/scale.md: compiled plans of the recipes on their slices.

    pip install -e '.[plan]'
    python benchmarks/plan_table.py
    python benchmarks/plan_table.py --only=large

Each row is one `python -m dlms_jax.plan` in its own process; a program takes minutes on two cores.
Rows are printed in Markdown as they are finished. The exit status is 1 if a plan failed.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
GIB = 2**30
IN_FOUR = "training.accumulation_steps=4"
ROWS = (  # recipe, slice, settings
    ("tiny", "v5e:1x1", ""),
    ("small", "v5e:1x1", ""),
    ("base", "v5e:1x1", ""),
    ("base", "v5e:2x4", ""),
    ("gaussian_base", "v5e:2x4", ""),
    ("medium", "v5e:2x4", "mesh.data=2 mesh.fsdp=4"),
    ("large", "v5e:4x4", f"{IN_FOUR} mesh.data=4 mesh.fsdp=4"),
    ("large", "v6e:4x4", "mesh.data=4 mesh.fsdp=4"),
    ("large", "v5p:4x4x4", "mesh.data=4 mesh.fsdp=16"),
    ("moe", "v5p:4x4x4", "mesh.expert=8 mesh.fsdp=8"),
    ("xl_8b", "v5p:4x4x4", "mesh.fsdp=32 mesh.data=2"),
    ("xl_8b", "v6e:16x16", "mesh.fsdp=32 mesh.data=8"),
    ("xl_8b", "v5e:16x16", "mesh.fsdp=32 mesh.data=8"),
)
HEADER = (
    "recipe", "slice", "settings", "state", "temporaries", "together", "of", "by formula",
    "matmuls s", "HBM s", "network s", "step s", "MFU", "days", "chip-hours",
)  # fmt: skip


def main():
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="RECIPE", help="print only the rows of this recipe")
    parser.add_argument(
        "--formula", action="store_true", help="do not compile; a row takes seconds"
    )
    arguments = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + "-|" * len(HEADER))
    failed = 0
    for recipe, slice_, settings in ROWS:
        if arguments.only in (None, recipe):
            text, whole = row(recipe, slice_, settings.split(), arguments.formula)
            print(text, flush=True)
            failed += not whole
    sys.exit(1 if failed else 0)


def row(recipe: str, slice_: str, settings: list[str], formula: bool) -> tuple[str, bool]:
    """Returns (a row of the table, whether the plan succeeded); a failed row shows the error."""
    command = [
        sys.executable,
        "-m",
        "dlms_jax.plan",
        f"--config={ROOT / 'configs' / recipe}.py",
        f"--topology={slice_}",
        "--json",
        *(f"--config.{setting}" for setting in settings),
        *(["--formula"] if formula else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    short = [s.removeprefix("mesh.").replace(IN_FOUR, "accumulation 4") for s in settings]
    start = f"| `{recipe}` | {slice_} | {' '.join(short) or 'none'} |"
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        return f"{start} {said[-1]} |", False
    plan = json.loads(done.stdout)
    memory, time = plan["memory"], plan["time"]
    mark = " f" if plan["unread"] or not plan["compiled"] else ""
    cells = [
        *(f"{size / GIB:.2f}" for size in (
            sum(memory["arguments"].values()), sum(memory["temporaries"].values()),
            memory["total"], memory["available"], plan["memory_by_formula"],
        )),
        f"{time['matmuls']:.3g}", f"{time['hbm']:.3g}{mark}",
        f"{time['ici'] + time['dcn']:.2g}{mark}", f"{time['step']:.3g}{mark}",
        f"{time['mfu']:.0%}", f"{time['days']:.2g}", f"{time['chip_hours']:,.0f}",
    ]  # fmt: skip
    return f"{start} {' | '.join(cells)} |", True


if __name__ == "__main__":
    main()
