"""A plan's numbers: memory to the byte, what is sent, times by hand, and the advice of them."""

import jax
import numpy as np
import pytest

from dlms_jax.config import MeshConfig
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.errors import UserError
from dlms_jax.parallel.mesh import make_mesh, mesh_shape
from dlms_jax.planning import formulas, hlo, memory, roofline
from dlms_jax.planning.advice import advise
from dlms_jax.planning.chips import parse_topology
from dlms_jax.planning.collectives import SLICES, find_collectives
from dlms_jax.planning.memory import Memory
from dlms_jax.planning.plan import by_formula
from dlms_jax.planning.program import make_program, vocabulary_from
from dlms_jax.testing import small_config


@pytest.fixture(scope="module")
def program():
    """A small step on 8 devices, split by fsdp and tensor, with a moving average."""
    config = small_config(
        training__batch_size=16, training__ema_decay=0.99, tokenizer__name="bpe",
        tokenizer__vocab_size=500,
    )  # fmt: skip
    return make_program(config, make_mesh(MeshConfig(1, 4, 2)))


def test_memory_by_kind_is_that_of_the_state_to_the_byte(program):
    state = program.initial_state()

    def on_first_device(tree):
        return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

    found = memory.arguments(program)
    assert found["parameters"] == on_first_device(state.params)
    assert found["moving average"] == on_first_device(state.ema) == found["parameters"]
    assert found["optimizer"] == on_first_device(state.optimizer)
    assert found["counters"] == 3 * 4
    assert found["batch"] == 16 // 4 * (32 * (3 * 4 + 1) + 4)
    assert found["parameters"] < sum(x.nbytes for x in jax.tree.leaves(state.params)) / 6


def test_an_abstract_mesh_gives_the_same_memory(program):
    config = program.config
    topology = parse_topology("v5e:2x4")
    mesh = {"mesh": {"data": 1, "fsdp": 4, "tensor": 2}}
    plan = by_formula(type(config)(**_sections(config) | {"mesh": MeshConfig(**mesh["mesh"])}),
                      topology)  # fmt: skip
    assert plan.memory.arguments == memory.arguments(program)


def _sections(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


@pytest.fixture(scope="module")
def compiled_fsdp():
    """(program, what it sends) of a small float32 step, compiled for 8 fake devices along fsdp."""
    config = small_config(training__batch_size=16)
    program = make_program(config, make_mesh(MeshConfig(1, 8, 1)))
    text = program.lower().compile().as_text()
    return program, find_collectives(hlo.parse(text), dict(program.mesh.shape))


def test_fsdp_gathers_every_matrix_for_each_pass_and_scatters(compiled_fsdp):
    """The bytes of all-gathers in a compiled step are the formula's: 2 layers in a loop that XLA
    counts once, each matrix forward and backward, and the head once."""
    program, found = compiled_fsdp
    config = program.config.model
    assert {c.axes for c in found} == {("fsdp",)} and {c.peers for c in found} == {8}
    gathers = [c for c in found if c.kind == "all-gather" and "/embed/" not in c.source]
    matrices = 2 * (32 * 8 * (2 * 4 + 2 * 2) + 3 * 32 * 64)
    assert memory.gathered_parameters(program) == matrices
    expected = (2 * matrices + config.width * program.head_rows) * 4 * 7 / 8
    assert sum(c.sent for c in gathers) == expected
    assert formulas.sent_bytes(program)["fsdp",]["all-gather"] == expected
    scatters = [c for c in found if c.kind == "reduce-scatter"]
    assert sum(c.sent for c in scatters) == config.width * program.head_rows * 4 * 7 / 8


def test_recomputation_adds_a_forward_pass_of_the_layers():
    flops = {}
    for remat in ("none", "dots", "offload", "full"):
        config = small_config(training__batch_size=16, model__remat=remat)
        program = make_program(config, make_mesh(MeshConfig(8, 1, 1)))
        flops[remat] = formulas.executed_flops(program)
    tokens, pairs = 16 * 32, 2 * 2 * 2 * 4 * 8 * 32  # layers, q k^T and p v, multiply-add
    assert flops["none"] == program.flops
    assert flops["dots"] - flops["none"] == tokens * pairs
    assert flops["offload"] == flops["dots"]
    assert flops["full"] - flops["none"] == tokens * (
        pairs + 2 * memory.gathered_parameters(program)
    )


def test_the_attention_kernel_keeps_scores_on_the_chip_and_makes_them_twice_backward():
    def program(attention, remat="none"):
        config = small_config(
            training__batch_size=16, model__remat=remat, model__attention=attention,
            data__sequence_length=1024,
        )  # fmt: skip
        return make_program(config, make_mesh(MeshConfig(8, 1, 1)))

    plain, kernel = program("xla"), program("splash")
    scores = 2 * 1024**2 * 4  # rows of a device, pairs, heads
    saved = {
        kind: memory.temporaries(plain)[kind] - memory.temporaries(kernel)[kind]
        for kind in memory.temporaries(plain)
    }
    assert saved[memory.KEPT] == 2 * scores * (4 + 4)
    assert saved["a layer or the head at work"] > 0
    pairs = 2 * 2 * 2 * 4 * 8 * 1024  # layers, q k^T and p v, multiply-add
    more = formulas.executed_flops(kernel) - formulas.executed_flops(plain)
    assert more == 16 * 1024 * pairs * 3 / 2
    # Its result is kept with the matmuls'; plain attention's is made again.
    kept = formulas.executed_flops(program("splash", "dots"))
    assert kept == formulas.executed_flops(kernel)
    # Two tiles of 512: each pass reads two arrays once more than its operands count.
    assert formulas.read_again(kernel) == 2 * 3 * 2 * (2 * 4 * 1024 * 8 * 4)
    assert formulas.read_again(plain) == 0
    assert formulas.hbm_bytes(kernel) < formulas.hbm_bytes(plain) / 2


def test_what_is_offloaded_is_on_the_host_and_two_layers_of_it_here():
    def found(remat, mesh=(8, 1, 1), **settings):
        settings = {"training__batch_size": 16, "model__num_layers": 6} | settings
        mesh = make_mesh(MeshConfig(*mesh))
        program = make_program(small_config(model__remat=remat, **settings), mesh)
        return memory.temporaries(program)[memory.KEPT], memory.host(program)

    # A layer's input, q, k, v, attention's output, gate and up, of 2 rows of 32 tokens in float32.
    layer = 2 * 32 * 4 * (32 + 8 * (4 + 2 + 2) + 32 + 2 * 64)
    assert found("dots") == (6 * layer, 0) and found("offload") == (2 * layer, 6 * layer)
    assert found("offload", model__num_layers=1) == (layer, layer)
    assert found("full") == (6 * 2 * 32 * 4 * 32, 0)
    # Of experts all three products: they are weighed before they are added.
    experts = dict(model__experts=4, model__experts_per_token=2, model__expert_feed_forward=24)
    more = 2 * 32 * 4 * 2 * (24 + 24 + 32) - 2 * 32 * 4 * 2 * 64
    assert found("dots", **experts)[0] == 6 * (layer + more)
    # Two peers read each other's rows, and have room for all choices of both.
    more += 2 * 32 * 4 * 2 * (24 + 24 + 32)
    assert found("dots", (4, 1, 1, 2), **experts)[0] == 6 * (layer + more)


def test_moments_in_bfloat16_are_half_of_the_optimizers_memory_and_traffic():
    found = {}
    for moments in ("float32", "bfloat16"):
        config = small_config(training__batch_size=16, optimizer__moments=moments)
        program = make_program(config, make_mesh(MeshConfig(1, 8, 1)))
        sizes = memory.arguments(program)
        found[moments] = sizes["parameters"], sizes["optimizer"], formulas.hbm_bytes(program)
    (params, full, moved), (_, half, moved_less) = found["float32"], found["bfloat16"]
    assert full == pytest.approx(2 * params, abs=16) and half == pytest.approx(params, abs=16)
    assert moved - moved_less == 2 * (full - half)  # each is read and written


def test_int8_is_two_of_three_products_of_the_layers_matrices():
    """And of four, where remat repeats the first; it travels as it is multiplied."""
    found = {}
    for quantization, remat in (
        ("none", "none"),
        ("int8", "none"),
        ("int8", "full"),
        ("fp8", "none"),
    ):
        config = small_config(
            training__batch_size=16, model__quantization=quantization, model__remat=remat
        )
        program = make_program(config, make_mesh(MeshConfig(1, 8, 1)))
        sent = formulas.sent_bytes(program)["fsdp",]["all-gather"]
        found[quantization, remat] = formulas.int8_flops(program), sent
    once = 16 * 32 * 2 * memory.gathered_parameters(program)
    assert [flops for flops, _ in found.values()] == [0, 2 * once, 3 * once, 0]
    gathered = 2 * memory.gathered_parameters(program) * 7 / 8
    assert found["none", "none"][1] - found["int8", "none"][1] == (4 - 1) * gathered


def test_roofline_by_hand():
    topology = parse_topology("v5e:4x4")
    share, chip = roofline.SHARES, topology.chip
    times = roofline.estimate(
        topology, executed=4e15, hbm_bytes=8e10, ici_bytes=1e9, dcn_bytes=0.0,
        useful=3e15, tokens=10**6, steps=86_400,
    )  # fmt: skip
    assert times.matmuls == pytest.approx(4e15 / (16 * 197e12 * share["matmuls"]))
    assert times.hbm == pytest.approx(8e10 / (819e9 * share["HBM"]))
    assert times.network == pytest.approx(1e9 / (2 * 50e9 * share["network"]))
    assert times.seconds == times.matmuls + times.hbm
    assert times.bounds == (times.matmuls, times.matmuls + times.hbm + times.network)
    assert times.mfu(times.seconds) == pytest.approx(3e15 / times.seconds / (16 * chip.flops))
    assert times.days == pytest.approx(times.seconds)  # as many steps as a day has seconds
    assert times.chip_hours == pytest.approx(times.days * 24 * 16)
    assert times.tokens_per_day == pytest.approx(86_400e6 / times.seconds)
    low = roofline.estimate(topology, 4e15, 8e10, 1e9, 0.0, 3e15, 10**6, 86_400, int8=2e15)
    assert low.matmuls == pytest.approx(times.matmuls * 3 / 4)  # half of it in half the time


def test_between_slices_goes_what_the_slices_have_summed():
    """All-reduce of S bytes over data 8 on 2 slices: 2 S 7/8 by a ring; a slice's four sum it up
    (2 S 3/4), and each chip sends its quarter to the other slice and back (2 S/4 / 2)."""
    sent = {("data",): {"all-reduce": 2 * 100 * 7 / 8}, ("fsdp",): {"all-gather": 30.0}}
    mesh = {"data": 8, "fsdp": 4}
    split = roofline.split_by_network(sent, mesh, 2)
    assert split["data",] == {"all-reduce": pytest.approx(2 * 100 * 3 / 4)}
    assert split[(SLICES,)] == {"all-reduce": pytest.approx(2 * 100 / 4 / 2)}
    within, across = roofline.over_networks(split)
    assert within == pytest.approx(30 + 2 * 100 * 3 / 4)
    assert across == pytest.approx(2 * 100 / 4 / 2)
    assert roofline.over_networks(roofline.split_by_network(sent, mesh, 1)) == (30 + 175, 0)
    one_each = roofline.split_by_network({("data",): {"all-reduce": 100.0}}, {"data": 2}, 2)
    assert one_each == {(SLICES,): {"all-reduce": pytest.approx(100)}}


def test_the_vocabulary_is_the_tokenizers_without_training_it():
    bytes_ = small_config(tokenizer__special_tokens=("<a>", "<b>"))
    assert vocabulary_from(bytes_).size == 262
    assert vocabulary_from(small_config()) == vocabulary_of(ByteTokenizer())
    bpe = vocabulary_from(small_config(tokenizer__name="bpe", tokenizer__vocab_size=1000))
    assert (bpe.size, bpe.padded_size) == (1000, 1024)


def test_slices_need_data_to_be_a_multiple():
    assert mesh_shape(MeshConfig(-1, 4), 32, 2)[:2] == (8, 4)
    with pytest.raises(UserError, match="make mesh.data a multiple of 2"):
        mesh_shape(MeshConfig(1, -1), 32, 2)


class TestAdvice:
    def plan(self, topology="v5e:2x4", **settings):
        sizes = dict(width=1024, num_layers=8, num_heads=8, num_kv_heads=8, dtype="bfloat16")
        sizes |= {"feed_forward": 4096}
        settings = {f"model__{k}": v for k, v in sizes.items()} | settings
        settings = {"data__sequence_length": 2048, "training__batch_size": 256} | settings
        settings = {"mesh__data": 1, "mesh__fsdp": -1} | settings
        return by_formula(small_config(**settings), parse_topology(topology))

    def test_what_does_not_fit_is_told_what_would(self):
        plan = self.plan()
        assert not plan.memory.fits
        lines = advise(plan)
        first = lines[0]
        assert first.startswith("more accumulation: about")
        number = int(first.split("accumulation_steps=")[1])
        fitting = self.plan(training__accumulation_steps=number)
        assert fitting.memory.fits and fitting.memory.margin >= 0.04
        assert f"about {fitting.memory.total / memory.GIB:.1f} GiB" in first
        assert not self.plan(training__accumulation_steps=number // 2).memory.fits
        assert any("--topology=v5e:" in line for line in lines)

    def test_spare_memory_buys_less_recomputation(self):
        lines = advise(self.plan(topology="v5p:4x4x4", model__remat="full"))
        assert "recompute less" in lines[0] and "--config.model.remat=none" in lines[0]

    def test_what_no_recomputation_makes_fit_goes_to_the_host(self):
        """Layers' inputs alone are too much here, and there is one row a device."""
        settings = dict(model__num_layers=512, training__batch_size=8, model__num_heads=4)
        settings |= dict(model__feed_forward=512, data__sequence_length=8192, model__num_kv_heads=4)
        settings |= dict(model__attention="xla")  # whose scores no other remat makes fit
        plan = self.plan(model__remat="full", **settings)
        assert not plan.memory.fits
        assert advise(plan)[0].startswith("keep arrays on the host: about")
        assert "--config.model.remat=offload" in advise(plan)[0]

    def test_a_unet_that_does_not_fit_is_told_to_accumulate_or_split(self):
        """What it keeps for the backward pass is no matter of remat, and it refuses offload."""
        plan = self.plan(model__name="unet", training__batch_size=8, data__sequence_length=65_536)
        assert not plan.memory.fits
        assert not any("--config.model.remat" in line for line in advise(plan))

    def test_what_is_best_gets_none(self):
        assert advise(self.plan(topology="v5p:4x4x4")) == []

    def test_a_network_that_decides_is_named(self):
        plan = self.plan(training__batch_size=16, data__sequence_length=128, topology="v6e:4x4")
        assert plan.memory.fits and "the network is the bottleneck" in advise(plan)[-1]
        assert "of the bytes go along fsdp" in advise(plan)[-1]

    def test_a_network_between_slices_that_decides_is_named(self):
        """But not as an axis that could be shorter."""
        plan = self.plan(training__batch_size=16, data__sequence_length=128, topology="v6e:4x4")
        times = plan.roofline._replace(dcn=9.0)
        plan = plan._replace(sent={(SLICES,): {"all-reduce": 1.0}}, roofline=times)
        line = advise(plan)[-1]
        assert "100% of the bytes go between slices" in line and "config.mesh" not in line

    @pytest.mark.parametrize(
        ("kind", "what"),
        [("all-reduce", "by all-reduces"), ("collective-permute", "splits matmuls into rings")],
    )
    def test_fsdp_over_a_whole_slice_is_seen_where_the_compiler_does_not_gather(self, kind, what):
        plan = self.plan(topology="v5e:4x4", mesh__fsdp=16, training__accumulation_steps=16)
        plan = plan._replace(compiled=True, sent={("fsdp",): {kind: 9.0, "all-gather": 1.0}})
        line = next(line for line in advise(plan) if "a whole slice" in line)
        assert what in line and "90% of what fsdp sends" in line
        assert "--config.mesh.fsdp=4 --config.mesh.data=4" in line
        gathered = plan._replace(sent={("fsdp",): {"all-gather": 9.0}})
        assert not any("a whole slice" in line for line in advise(gathered))


def test_memory_adds_up():
    sizes = Memory({"a": 4}, {"t": 3.0}, available=10, padding=1, outputs=4, aliased=4, code=2)
    assert sizes.total == 10 and sizes.fits and sizes.margin == 0
    assert not sizes._replace(code=3).fits


def test_a_slice_whose_rows_do_not_divide_is_refused():
    config = small_config(training__batch_size=8)
    with pytest.raises(UserError, match="use a multiple of 16"):
        by_formula(config, parse_topology("v5e:4x4"))
    assert np.prod(list(by_formula(config, parse_topology("v5e:2x4")).mesh_shape.values())) == 8
