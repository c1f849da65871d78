"""A plan as printed tables and as a dict."""

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlms_jax.denoiser.attention_kernels import attention_kernel
from dlms_jax.planning import formulas, roofline
from dlms_jax.planning.advice import advise
from dlms_jax.planning.memory import GIB
from dlms_jax.planning.plan import Plan

BY_FORMULA = "by formula only; to compile the step: pip install 'dlms_jax[plan]', and no --formula"


def show(console: Console, plan: Plan):
    """Prints a plan."""
    config, topology = plan.program.config, plan.topology
    shape = ", ".join(f"{axis} {size}" for axis, size in plan.mesh_shape.items())
    training = config.training
    _say(
        console,
        f"{config.name}: {config.objective.name} {config.model.name}, {training.batch_size} rows "
        f"of {config.data.sequence_length} in {training.accumulation_steps} part(s), "
        f"{training.steps} steps, attention {attention_kernel(config, plan.program.mesh)}, "
        f"remat {config.model.remat}, quantization {config.model.quantization}",
    )
    _say(console, f"{topology.text}: {topology.chips} chip(s) ({shape})")
    measured = f"compiled for this topology in {plan.seconds:.0f} s"
    wanted = "compiled for this topology; the compiler refused it: out of memory"
    how = (measured if plan.memory.fits else wanted) if plan.compiled else BY_FORMULA
    _say(console, how)
    if plan.unread:
        _say(console, f"network and HBM traffic are by formula: {plan.unread}")
    _show_memory(console, plan)
    if plan.memory.fits or not plan.compiled:
        _show_sent(console, plan)
    _show_time(console, plan)
    for line in advise(plan) or ["no change that was tried is better"]:
        _say(console, f"advice: {line}")


def as_dict(plan: Plan) -> dict[str, Any]:
    """Returns the plan as a JSON-compatible dict, in bytes, seconds and FLOPs."""
    memory, times = plan.memory, plan.roofline
    best, worst = times.bounds
    return {
        "config": plan.program.config.to_dict(),
        "topology": plan.topology.name,
        "slices": plan.topology.slices,
        "chips": plan.topology.chips,
        "mesh": plan.mesh_shape,
        "attention": attention_kernel(plan.program.config, plan.program.mesh),
        "compiled": plan.compiled,
        "compile_seconds": plan.seconds,
        "unread": plan.unread,
        "fits": memory.fits,
        "memory": {
            "arguments": memory.arguments,
            "padding": memory.padding,
            "temporaries": memory.temporaries,
            "code": memory.code,
            "outputs": memory.outputs,
            "aliased": memory.aliased,
            "total": memory.total,
            "available": memory.available,
            "margin": memory.margin,
            "host": memory.host,
        },
        "memory_by_formula": plan.model.total,
        "flops": {
            "formula": times.useful,
            "executed": formulas.executed_flops(plan.program),
            "int8": formulas.int8_flops(plan.program),
            "compiler": plan.counted_flops,
        },
        "hbm_bytes": plan.hbm_bytes,
        "sent_bytes": {"+".join(axes): kinds for axes, kinds in plan.sent.items()},
        "largest_collectives": [c._asdict() | {"sent": c.sent} for c in plan.largest],
        "time": {
            "assumed_shares": roofline.SHARES,
            "matmuls": times.matmuls,
            "hbm": times.hbm,
            "ici": times.ici,
            "dcn": times.dcn,
            "step": times.seconds,
            "all_overlapped": best,
            "none_overlapped": worst,
            "mfu": times.mfu(times.seconds),
            "tokens_per_day": times.tokens_per_day,
            "days": times.days,
            "chip_hours": times.chip_hours,
        },
        "advice": advise(plan),
    }


def _show_memory(console: Console, plan: Plan):
    memory = plan.memory
    table = _table(console, "memory per chip", "GiB")
    rows: dict[str, float] = dict(memory.arguments)
    if memory.padding:
        rows["padding to tiles, minus unused arguments"] = memory.padding
    rows |= memory.temporaries
    if plan.compiled and memory.outputs:
        rows["outputs"] = memory.outputs
        rows["outputs that reuse the arguments' memory"] = -memory.aliased
        rows["program"] = memory.code
    for kind, size in rows.items():
        table.add_row(kind, f"{size / GIB:.3f}")
    table.add_row("total", f"{memory.total / GIB:.3f}")
    table.add_row(f"HBM of a {plan.topology.chip.name}", f"{memory.available / GIB:.3f}")
    console.print(table)
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    word = "free" if memory.fits else "missing"
    _say(console, f"{verdict}: {abs(memory.margin):.1%} {word}")
    if memory.host:
        parts = plan.program.config.training.accumulation_steps
        _say(
            console,
            f"in the host's memory: {memory.host / GIB:.3f} GiB per chip, sent there and back "
            f"{parts} time(s) per step; the time below does not include this",
        )


def _show_sent(console: Console, plan: Plan):
    if not plan.sent:
        return
    table = _table(console, "sent per chip and step, by mesh axis", "kind", "MB")
    for axes, kinds in plan.sent.items():
        for kind, size in sorted(kinds.items(), key=lambda item: -item[1]):
            table.add_row("+".join(axes), kind, f"{size / 1e6:.1f}")
    console.print(table)
    for c in plan.largest[:3]:
        source = c.source.split("/", 2)[-1][-70:] or "no name"
        _say(
            console,
            f"  {c.kind} along {'+'.join(c.axes)}, {c.times:.0f} x {c.size / 1e6:.1f} MB: {source}",
        )


def _show_time(console: Console, plan: Plan):
    times, chip = plan.roofline, plan.topology.chip
    best, worst = times.bounds
    table = _table(console, "estimate per step", "", right=False)
    executed = formulas.executed_flops(plan.program)
    int8 = formulas.int8_flops(plan.program)
    rows = {
        "FLOPs by formula": f"{times.useful:.3e}; with recomputation {executed:.3e}"
        + (f", {int8 / executed:.0%} of them int8" if int8 else ""),
        "FLOPs by the compiler": ""
        if plan.counted_flops is None
        else f"{plan.counted_flops:.3e} (too low: it counts the body of a loop once)",
        "matmuls": f"{times.matmuls:.3f} s at {roofline.SHARES['matmuls']:.0%} of "
        f"{chip.flops / 1e12:.0f} TFLOP/s per chip",
        "HBM": f"{times.hbm:.3f} s for {plan.hbm_bytes / 1e9:.1f} GB at "
        f"{roofline.SHARES['HBM']:.0%} of {chip.hbm_bandwidth / 1e9:.0f} GB/s",
        "network in the slice": f"{times.ici:.3f} s at {roofline.SHARES['network']:.0%} of "
        f"{plan.topology.ici_bandwidth / 1e9:.0f} GB/s"
        if times.ici
        else "",
        "network between slices": f"{times.dcn:.3f} s at {roofline.SHARES['network']:.0%} of "
        f"{chip.dcn_bandwidth / 1e9:.1f} GB/s"
        if times.dcn
        else "",
        "time": f"{times.seconds:.3f} s = max(matmuls + HBM, network); {best:.3f} s if everything "
        f"overlaps, {worst:.3f} s if nothing does",
        "MFU": f"{times.mfu(times.seconds):.1%} ({times.mfu(worst):.1%} to {times.mfu(best):.1%})",
        "tokens per day": f"{times.tokens_per_day / 1e9:.2f} billion",
        "whole run": f"{times.days:.2f} days, {times.chip_hours:,.0f} chip-hours for "
        f"{times.steps * times.tokens / 1e9:.1f} billion tokens",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console.print(table)
    _say(
        console,
        "the percentages of peak are assumptions, not measurements; evaluations, checkpoints and "
        "restarts are not included",
    )


def _table(console: Console, title: str, *columns: str, right: bool = True) -> Table:
    """Returns a table: with borders on a terminal, in plain columns when piped."""
    style = box.ROUNDED if console.is_terminal else None
    table = Table(title, *columns[:-1], box=style, show_edge=console.is_terminal, pad_edge=False)
    table.add_column(columns[-1], justify="right" if right else "left")
    return table


def _say(console: Console, text: str):
    console.print(escape(text), highlight=False, soft_wrap=True)
