"""How far from the joint each sampler of masked diffusion is, by number of steps.

Print the table with: pytest -s tests/sampling/test_distances.py
"""

from collections.abc import Callable

import numpy as np
import pytest
from sampling.chains import (
    Exact,
    SmallJoint,
    ancestral,
    canvases,
    first_hitting,
    follow,
    ordered,
    over_texts,
    remasking,
    start_remasking,
    total_variation,
)

from dlms_jax.diffusion import Linear

JOINT = SmallJoint(3, 3, seed=11)
STEPS = 1, 2, 3, 4, 8, 16, 32
EXACT = Exact(JOINT)


def _follow(make_kernel):
    return lambda n: over_texts(JOINT, follow(make_kernel(n), range(n), EXACT.start))


def remask(kind, eta):
    def distribution(n):
        kernel = remasking(EXACT, Linear(), n, kind, eta)
        return over_texts(JOINT, canvases(follow(kernel, range(n), start_remasking(EXACT.start))))

    return distribution


# From a number of steps to the distribution over the joint's texts; first-hitting takes 3 steps.
SAMPLERS: dict[str, Callable[[int], np.ndarray]] = {
    "ancestral": _follow(lambda n: ancestral(EXACT, Linear(), n)),
    "ancestral, cosine spacing": _follow(lambda n: ancestral(EXACT, Linear(), n, "cosine")),
    "first_hitting (3 steps)": lambda _: _follow(lambda n: first_hitting(EXACT))(3),
    **{
        order: _follow(lambda n, order=order: ordered(EXACT, Linear(), n, order))
        for order in ("confidence", "margin", "entropy")
    },
    "remdm_cap, eta 0.1": remask("cap", 0.1),
    "remdm_rescale, eta 0.3": remask("rescale", 0.3),
}


def distance_table(samplers=None, steps=STEPS, joint=JOINT) -> dict[str, list[float]]:
    """Returns each sampler's total variation from the joint at each number of steps; prints it."""
    table: dict[str, list[float]] = {}
    print(f"\ntotal variation from the joint by steps:\n{'':32}" + "".join(f"{n:8}" for n in steps))
    for name, distribution in (samplers or SAMPLERS).items():
        table[name] = [total_variation(distribution(n), joint.p) for n in steps]
        print(f"{name:32}" + "".join(f"{d:8.4f}" for d in table[name]), flush=True)
    return table


@pytest.fixture(scope="module")
def table():
    return distance_table()


def test_in_one_step_all_but_first_hitting_draw_the_tokens_independently(table):
    marginals = np.stack([np.bincount(JOINT.texts[:, i], JOINT.p) for i in range(JOINT.length)])
    independent = np.prod([marginals[i, JOINT.texts[:, i]] for i in range(JOINT.length)], axis=0)
    for name, values in table.items():
        if "first_hitting" not in name:
            assert values[0] == pytest.approx(total_variation(independent, JOINT.p))


def test_which_samplers_tend_to_the_joint(table):
    for name, values in table.items():
        if "first_hitting" in name:
            np.testing.assert_allclose(values, 0, atol=1e-9)
        elif name in ("confidence", "margin", "entropy"):
            # A token a step at most: no change after 3 steps, and not the joint.
            np.testing.assert_allclose(values[2:], values[2], atol=1e-9)
        else:
            assert (np.diff(values) < 0).all() and values[-1] < values[0] / 8, name
    # An order that follows what was drawn prefers likely texts; one that does not, and reveals one
    # token a step, is the chain sampler in some order: exact.
    assert table["confidence"][2] > 0.05
    assert table["margin"][2] < 1e-9 and table["entropy"][2] < 1e-9
