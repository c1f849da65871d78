"""Advice from a plan: settings that would make a step fit or run faster, with their effect."""

from collections.abc import Iterator
import dataclasses

from dlms_jax.config import Config
from dlms_jax.errors import UserError
from dlms_jax.parallel.mesh import batch_shards
from dlms_jax.planning import memory, plan as plans
from dlms_jax.planning.collectives import SLICES
from dlms_jax.planning.plan import Plan

_SPARE = 0.05  # share of HBM that a change must leave free, because the formulas are not exact
_WORTH = 0.02  # smallest saving, as a share of a step's time, that is worth a line
# offload comes last: the bandwidth between a chip and its host is unknown here.
_MORE_REMAT = {
    "none": ("dots", "full", "offload"),
    "dots": ("full", "offload"),
    "full": ("offload",),
    "offload": ("full",),
}
_LESS_REMAT = {"none": (), "dots": ("none",), "full": ("none", "dots"), "offload": ("none", "dots")}
_INSTEAD_OF_GATHERS = {
    "all-reduce": "replaces gathers and scatters by all-reduces, which send twice the bytes",
    "collective-permute": "splits matmuls into rings, whose partial sums go through HBM",
}
_SMALLER_BY = {
    "dots": "recompute more",
    "full": "recompute more",
    "offload": "keep arrays on the host",
}


def advise(plan: Plan) -> list[str]:
    """Returns lines of advice, the most important first; [] if no change helps."""
    if not plan.memory.fits:
        return _make_it_fit(plan)
    return [*_faster(plan), *_gathers(plan), *_network(plan)]


def _make_it_fit(plan: Plan) -> list[str]:
    over = (plan.memory.total - plan.topology.chip.hbm) / memory.GIB
    lines = []
    for what, flags, config in _smaller(plan):
        total = _total(plan, config)
        if total is not None and total <= plan.topology.chip.hbm * (1 - _SPARE):
            lines.append(f"{what}: about {total / memory.GIB:.1f} GiB with {flags}")
            if len(lines) == 3:
                break
    bigger = plan.topology.larger()
    while bigger is not None:
        total = _total(plan, plan.program.config, bigger)
        if total is not None and total <= plan.topology.chip.hbm * (1 - _SPARE):
            lines.append(
                f"a bigger slice: about {total / memory.GIB:.1f} GiB per chip with "
                f"--topology={bigger.name}"
            )
            break
        bigger = bigger.larger()
    return lines or [
        f"no accumulation, remat, mesh or {plan.topology.chip.name} slice that was tried saves the "
        f"missing {over:.1f} GiB; use a smaller model or shorter rows"
    ]


def _smaller(plan: Plan) -> Iterator[tuple[str, str, Config]]:
    """Yields (description, flags, config) of changes that save memory, the cheapest first."""
    config = plan.program.config
    parts, remats = _parts(plan), _MORE_REMAT[config.model.remat]
    if config.model.name == "unet":  # remat does not change its memory by formula
        remats = ()
    for number in parts:
        yield _change(config, "more accumulation", ("training", "accumulation_steps", number))
    for remat in remats:
        yield _change(config, _SMALLER_BY[remat], ("model", "remat", remat))
    for remat in remats:
        for number in parts:
            yield _change(
                config,
                f"{_SMALLER_BY[remat]} and accumulate more",
                ("model", "remat", remat),
                ("training", "accumulation_steps", number),
            )
    for name in ("fsdp", "tensor"):
        mesh = plan.mesh_shape
        while mesh["data"] % 2 == 0 and mesh["data"] > plan.topology.slices:
            mesh = mesh | {"data": mesh["data"] // 2, name: mesh[name] * 2}
            yield _change(
                config,
                f"split the state over {name}",
                ("mesh", "data", mesh["data"]),
                ("mesh", name, mesh[name]),
            )


def _faster(plan: Plan) -> Iterator[str]:
    """Yields at most one line: a change that uses free memory to save time."""
    config = plan.program.config
    changes = [
        _change(config, "recompute less", ("model", "remat", remat))
        for remat in _LESS_REMAT[config.model.remat]
    ]
    steps = config.training.accumulation_steps
    changes += [
        _change(config, "accumulate less", ("training", "accumulation_steps", number))
        for number in range(1, steps)
        if steps % number == 0
    ]
    base = plans.by_formula(config, plan.topology)
    for what, flags, other in changes:
        total = _total(plan, other)
        if total is None or total > plan.topology.chip.hbm * (1 - _SPARE):
            continue
        then = plans.by_formula(other, plan.topology)
        saved = 1 - then.roofline.seconds / base.roofline.seconds
        if saved > _WORTH:
            yield (
                f"{what}: {saved:.0%} less time per step by formula, at about "
                f"{total / memory.GIB:.1f} GiB per chip, with {flags}"
            )
            return


def _gathers(plan: Plan) -> Iterator[str]:
    """Yields a line if fsdp spans a whole slice and the compiler avoids gathers and scatters."""
    mesh, topology = plan.mesh_shape, plan.topology
    fsdp = mesh["fsdp"]
    kinds = plan.sent.get(("fsdp",), {})
    most = max(_INSTEAD_OF_GATHERS, key=lambda kind: kinds.get(kind, 0))
    share = kinds.get(most, 0) / max(sum(kinds.values()), 1)
    if not plan.compiled or fsdp == 1 or fsdp != topology.slice_chips or share < 1 / 2:
        return
    better = fsdp // min(side for side in topology.shape if side > 1)
    _, flags, config = _change(
        plan.program.config,
        "",
        ("mesh", "fsdp", better),
        ("mesh", "data", topology.chips // better),
    )
    total = _total(plan, config)
    if total is not None and total <= topology.chip.hbm * (1 - _SPARE):
        yield (
            f"fsdp={fsdp} spans a whole slice, where the compiler {_INSTEAD_OF_GATHERS[most]} "
            f"({share:.0%} of what fsdp sends); with one side of the slice for data, about "
            f"{total / memory.GIB:.1f} GiB per chip: {flags}"
        )


def _network(plan: Plan) -> Iterator[str]:
    """Yields a line if the network limits the time of a step."""
    times = plan.roofline
    if times.network <= times.matmuls + times.hbm:
        return
    axes, kinds = max(plan.sent.items(), key=lambda item: sum(item[1].values()))
    along = "between slices" if axes == (SLICES,) else f"along {'+'.join(axes)}"
    share = sum(kinds.values()) / sum(sum(k.values()) for k in plan.sent.values())
    yield (
        f"the network is the bottleneck: {times.network:.3f} s against "
        f"{times.matmuls + times.hbm:.3f} s of matmuls and HBM; {share:.0%} of the bytes go "
        f"{along}: use more rows per device (a larger config.training.batch_size, or fewer "
        "accumulation_steps)"
        + ("" if axes == (SLICES,) else f", or make {'+'.join(axes)} shorter in config.mesh")
    )


def _parts(plan: Plan) -> list[int]:
    """Returns the larger numbers of accumulation steps that divide the rows of a device."""
    training = plan.program.config.training
    rows = training.batch_size // batch_shards(plan.program.mesh)
    return [n for n in range(training.accumulation_steps + 1, rows + 1) if rows % n == 0]


def _change(config: Config, what: str, *changes) -> tuple[str, str, Config]:
    """Returns (description, flags, config), with each (section, key, value) changed."""
    flags = " ".join(f"--config.{section}.{key}={value}" for section, key, value in changes)
    for section, key, value in changes:
        part = dataclasses.replace(getattr(config, section), **{key: value})
        config = dataclasses.replace(config, **{section: part})
    return what, flags, config


def _total(plan: Plan, config: Config, topology=None) -> float | None:
    """Returns the memory of another config by formula; None if its sizes do not divide.

    Its temporaries are scaled by the ratio of compiled to formula temporaries in this plan.
    """
    try:
        other = plans.by_formula(config, topology or plan.topology).memory
    except UserError:
        return None
    here = sum(plan.model.temporaries.values())
    scale = sum(plan.memory.temporaries.values()) / here if here else 1
    temporaries = scale * sum(other.temporaries.values())
    return sum(other.arguments.values()) + temporaries + plan.memory.code + plan.memory.padding
