"""What the TPU compiler makes of a small step, for chips that are not here."""

import json

from planning.libtpu import needs_libtpu, output_of
import pytest

pytestmark = [pytest.mark.slow, needs_libtpu]
# 8 layers of width 512; 4 rows of 512 places a chip.
PROGRAM = """
import json, sys
from dlms_jax.planning.environment import set_environment
set_environment()
from dlms_jax.config import MeshConfig, from_dict
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.planning import compiling, hlo, memory
from dlms_jax.planning.chips import parse_topology
from dlms_jax.planning.program import make_program
model = {"width": 512, "num_layers": 8, "num_heads": 4, "feed_forward": 2048}
topology = parse_topology("v5e:2x2")
mesh = make_mesh(MeshConfig(1, 4), compiling.tpu_devices(topology))
found = []
for settings in json.loads(sys.argv[1]):
    config = from_dict({
        "name": "small", "model": model | settings, "data": {"sequence_length": 512},
        "training": {"batch_size": 16, "loss_chunk_size": 256},
    })
    program = make_program(config, mesh)
    compiled = compiling.compile_step(program, topology)
    module = hlo.parse(compiled.text)
    dots = [
        "".join(sorted({inner[name].type.split("[")[0] for name in dot.operands}))
        for inner in module.computations.values()
        for dot in inner.values() if dot.kind == "convolution"
    ]
    found.append({
        "temporaries": sum(compiled.memory.temporaries.values()), "host": compiled.memory.host,
        "formula": memory.temporaries(program), "host_formula": memory.host(program), "dots": dots,
    })
print(json.dumps(found))
"""


def compiled(*settings):
    """Returns what PROGRAM finds of each model's settings."""
    return output_of("-c", PROGRAM, json.dumps(settings))


def test_what_is_offloaded_leaves_the_chip():
    """None of it stays but what is on its way: 8 layers, of which two are. The kernel of attention
    keeps its result, and a float32 for each head and place."""
    dots, offload = compiled({"remat": "dots"}, {"remat": "offload"})
    assert dots["host"] == 0 and offload["host"] == offload["host_formula"]
    matmuls, kernel = 512 + 3 * 512 + 512 + 2 * 2048, 512
    assert offload["host"] == 8 * 4 * 512 * (2 * (matmuls + kernel) + 4 * 4)
    assert dots["temporaries"] - offload["temporaries"] > 0.7 * offload["host"]


def test_int8_products_are_int8_on_the_chip():
    """Two of three: the dots of the same step in bfloat16, less those, are bfloat16."""
    plain, low = compiled({"remat": "dots"}, {"remat": "dots", "quantization": "int8"})
    assert "s8" not in plain["dots"] and low["dots"].count("s8") >= 14
    assert low["dots"].count("bf16") < 0.6 * plain["dots"].count("bf16")
