"""Measure the distance of each sampler from a known joint distribution, by number of steps.

    python benchmarks/sampler_distance.py
    python benchmarks/sampler_distance.py --all

The distance is the total variation on texts of 3 tokens from a vocabulary of 3, with exact
denoisers. For block diffusion, steps are per block. The chains are those of the tests, which
compare each sampler with its chain. --all adds samplers that take minutes: remdm_confidence, whose
chain keeps the probability of each token, and the Gaussian samplers. Their chains cannot be
enumerated, so they are drawn from 50,000 times; by this estimate the joint itself has a distance of
0.003.
"""

import argparse
import pathlib
import sys

import jax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from sampling import chains, sequential, test_distances, test_gaussian, test_uniform  # noqa: E402

from dlms_jax.diffusion import Linear  # noqa: E402
from dlms_jax.testing import exact_gaussian_denoiser

JOINT = test_distances.JOINT


def main():
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="include samplers that take minutes")
    samplers = {f"masked {name}": p for name, p in test_distances.SAMPLERS.items()}
    samplers |= {
        f"block of {size} {order}": _block(size, order)
        for size in (1, 2)
        for order in ("ancestral", "confidence")
    }
    chain = test_uniform.Chain(JOINT, Linear())
    samplers |= {f"uniform {kind}": _uniform(chain, kind) for kind in test_uniform.KINDS}
    if parser.parse_args().all:
        samplers["masked remdm_confidence, eta 0.3"] = test_distances.remask("confidence", 0.3)
        samplers |= {f"gaussian {kind}": _gaussian(kind) for kind in test_gaussian.KINDS}
    test_distances.distance_table(samplers)


def _block(size, order):
    def distribution(steps):
        def inner(predict, holes):
            if order == "ancestral":
                return chains.ancestral(predict, Linear(), steps, holes=holes), steps
            return chains.ordered(predict, Linear(), steps, order, holes=holes), steps

        return sequential.block_chain(JOINT, size, inner, {})

    return distribution


def _uniform(chain, kind):
    return lambda steps: chain.run(test_uniform.matrices(chain, kind, steps))


def _gaussian(kind):
    denoise = exact_gaussian_denoiser(JOINT, test_gaussian.CONFIG, test_gaussian.TABLE)

    def distribution(steps):
        sampler = test_gaussian.make_sampler(kind, steps, joint=JOINT, schedule="cosine")
        counts = chains.sample(JOINT, sampler, denoise)
        jax.clear_caches()  # one program per number of steps
        return counts / counts.sum()

    return distribution


if __name__ == "__main__":
    main()
