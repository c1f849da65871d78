"""What a program runs, how often, what it sends and what it moves: on handwritten HLO."""

import pytest

from dlms_jax.planning import hlo, traffic
from dlms_jax.planning.collectives import SLICES, find_collectives, sent_by_axes

# A scan of 3 layers around a gather over fsdp, as TPUs write it (types with tiles and memories, the
# loop's length in its condition), a loop whose length is data, and what follows.
TPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %add.1 = f32[]{:T(128)} add(%x, %y)
}

%all-reduce-scatter.1 (input: bf16[64,32]) -> bf16[16,32] {
  %input = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.9 = bf16[64,32]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add
  %place = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.9 = bf16[16,32]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.9, %place, %place), dynamic_slice_sizes={16,32}
}

%body (arg: (s32[], bf16[3,16,32])) -> (s32[], bf16[3,16,32]) {
  %arg = (s32[]{:T(128)}, bf16[3,16,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %stack = bf16[3,16,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%arg), index=1
  %shard = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} fusion(%stack, %i), kind=kLoop, calls=%take
  %all-gather.1 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%shard), channel_id=1, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}, metadata={op_name="jit(step)/layers/q_proj" stack_frame_id=7}
  %scattered = bf16[16,32]{1,0:T(8,128)(2,1)} fusion(%all-gather.1), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %out = (s32[]{:T(128)}, bf16[3,16,32]{2,1,0:T(8,128)(2,1)}) tuple(%i, %stack)
}

%take (stack.1: bf16[3,16,32], i.1: s32[]) -> bf16[16,32] {
  %stack.1 = bf16[3,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i.1 = s32[]{:T(128)} parameter(1)
  %slice.1 = bf16[1,16,32]{2,1,0:T(8,128)(2,1)} dynamic-slice(%stack.1, %i.1), dynamic_slice_sizes={1,16,32}
  ROOT %flat = bf16[16,32]{1,0:T(8,128)(2,1)} bitcast(%slice.1)
}

%below_3 (arg.1: (s32[], bf16[3,16,32])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  %arg.1 = (s32[]{:T(128)}, bf16[3,16,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.2, %limit), direction=LT
}

%as_told (arg.2: (s32[], s32[], f32[8,4])) -> pred[] {
  %arg.2 = (s32[]{:T(128)}, s32[]{:T(128)}, f32[8,4]{1,0}) parameter(0)
  %i.3 = s32[]{:T(128)} get-tuple-element(%arg.2), index=0
  %n = s32[]{:T(128)} get-tuple-element(%arg.2), index=1
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.3, %n), direction=LT
}

%chunk (arg.3: (s32[], s32[], f32[8,4])) -> (s32[], s32[], f32[8,4]) {
  %arg.3 = (s32[]{:T(128)}, s32[]{:T(128)}, f32[8,4]{1,0}) parameter(0)
  %i.4 = s32[]{:T(128)} get-tuple-element(%arg.3), index=0
  %n.1 = s32[]{:T(128)} get-tuple-element(%arg.3), index=1
  %value = f32[8,4]{1,0} get-tuple-element(%arg.3), index=2
  %moved = f32[8,4]{1,0} collective-permute(%value), channel_id=9, source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  ROOT %out.1 = (s32[]{:T(128)}, s32[]{:T(128)}, f32[8,4]{1,0}) tuple(%i.4, %n.1, %moved)
}

ENTRY %main (p: f32[8,4], s: bf16[3,16,32]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %s = bf16[3,16,32]{2,1,0:T(8,128)(2,1)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, bf16[3,16,32]{2,1,0:T(8,128)(2,1)}) tuple(%zero, %s)
  %layers = (s32[]{:T(128)}, bf16[3,16,32]{2,1,0:T(8,128)(2,1)}) while(%start), condition=%below_3, body=%body
  %begin = (s32[]{:T(128)}, s32[]{:T(128)}, f32[8,4]{1,0}) tuple(%zero, %zero, %p)
  %head = (s32[]{:T(128)}, s32[]{:T(128)}, f32[8,4]{1,0}) while(%begin), condition=%as_told, body=%chunk
  %value.1 = f32[8,4]{1,0} get-tuple-element(%head), index=2
  %all-reduce.2 = (f32[8,4]{1,0}, f32[]{:T(128)}, /*index=2*/f32[8,4]{1,0}) all-reduce(%value.1, %zero, /*index=2*/%p), channel_id=4, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  ROOT %sum = f32[8,4]{1,0} get-tuple-element(%all-reduce.2), index=0
}
"""  # noqa: E501
MESH = {"data": 2, "fsdp": 4, "tensor": 1}


def by_kind(collectives):
    return {c.kind: c for c in collectives}


def test_loops_are_followed_by_the_constant_in_their_condition():
    module = hlo.parse(TPU)
    loops = {i.name: i for i, _, _ in module.executed() if i.kind == "while"}
    assert module.trips(loops["layers"]) == 3
    assert module.trips(loops["head"]) is None
    times = {i.name: n for i, _, n in module.executed(unknown_trips=5)}
    assert times["all-gather.1"] == 3 and times["moved"] == 5 and times["all-reduce.2"] == 1
    assert "x" not in times  # what a sum applies is not what a run executes


def test_what_a_kernel_notes_of_itself_does_not_end_a_computation():
    """Pallas's kernels come with lines of JSON, whose braces close at a line's start."""
    kernel = """  %kernel = bf16[16,32]{1,0:T(8,128)(2,1)} custom-call(%shard), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/splash_mha_fwd"}
"""  # noqa: E501
    gather = "  %all-gather.1 ="
    module = hlo.parse(TPU.replace(gather, kernel + gather))
    times = {i.name: n for i, _, n in module.executed(unknown_trips=5)}
    assert times == {i.name: n for i, _, n in hlo.parse(TPU).executed(5)} | {"kernel": 3}


def test_collectives_by_hand():
    found = by_kind(find_collectives(hlo.parse(TPU), MESH, unknown_trips=5))
    gather, scatter = found["all-gather"], found["reduce-scatter"]
    assert (gather.axes, gather.peers, gather.times) == (("fsdp",), 4, 3)
    assert gather.sent == 3 * (16 * 32 * 2) * 3  # its shard to three others, in three layers
    assert gather.source == "jit(step)/layers/q_proj"
    assert scatter.axes == ("fsdp",) and scatter.sent == 3 * (64 * 32 * 2) * 3 / 4
    everything = found["all-reduce"]
    assert everything.axes == ("data",)  # {0,4}: partitions are numbered in the mesh's order
    assert everything.sent == 2 * (2 * 8 * 4 * 4 + 4) / 2
    permute = found["collective-permute"]
    assert permute.axes == ("fsdp",) and permute.sent == 5 * 8 * 4 * 4
    table = sent_by_axes(found.values())
    assert table["data",] == {"all-reduce": everything.sent}
    assert set(table["fsdp",]) == {"all-gather", "reduce-scatter", "collective-permute"}


@pytest.mark.parametrize(
    ("groups", "axes", "peers"),
    [
        ("[2,4]<=[8]", ("fsdp",), 4),
        ("[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("[1,8]<=[8]", ("data", "fsdp"), 8),
        ("[8,1]<=[8]", None, 1),
        ("{}", ("data", "fsdp"), 8),
        ("{{0,1},{2,3},{4,5},{6,7}}", ("fsdp",), 2),
        ("mesh['axis_0'=8] {'axis_0'}", ("data", "fsdp"), 8),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", ("data",), 2),
        ("mesh['axis_0'=8] {'axis_0':(1)2}", ("data",), 2),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", ("fsdp",), 4),
    ],
)
def test_groups_in_every_notation_find_their_axes(groups, axes, peers):
    text = f"""HloModule m

ENTRY %main (p: f32[6]) -> f32[6] {{
  %p = f32[6]{{0}} parameter(0)
  ROOT %all-reduce = f32[6]{{0}} all-reduce(%p), replica_groups={groups}, to_apply=%add
}}
"""
    found = find_collectives(hlo.parse(text), MESH)
    if axes is None:  # a device alone sends nothing
        assert found == []
        return
    assert (found[0].axes, found[0].peers) == (axes, peers)
    assert found[0].sent == pytest.approx(2 * 24 * (peers - 1) / peers)


def test_a_loop_whose_length_xla_noted():
    text = TPU.replace("body=%chunk", 'body=%chunk, backend_config={"known_trip_count":{"n":"7"}}')
    module = hlo.parse(text)
    assert by_kind(find_collectives(module, MESH))["collective-permute"].times == 7


def test_started_collectives_count_once_and_sends_of_a_pair_name_its_axis():
    text = """HloModule m

ENTRY %main (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %start = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%p), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %done = bf16[16,8]{1,0} all-gather-done(%start)
}
"""  # noqa: E501
    found = find_collectives(hlo.parse(text), MESH)
    assert [(c.kind, c.sent) for c in found] == [("all-gather", 64 * 3)]


def test_hbm_counts_slices_of_what_is_sliced_and_nothing_that_stands_nearer():
    """In the loop: the shard's slice is read (1 KiB of 3) into near memory, whence the gather takes
    it; the gather is written and read again by the scatter's fusion, which writes its part."""
    module = hlo.parse(TPU)
    loop = 3 * (16 * 32 * 2 + 4 + 64 * 32 * 2 + 64 * 32 * 2 + 16 * 32 * 2)
    permute = 5 * 2 * 8 * 4 * 4
    everything = 2 * (2 * 8 * 4 * 4 + 4)
    assert traffic.hbm_bytes(module, unknown_trips=5) == loop + permute + everything


def test_an_update_in_place_counts_as_the_update():
    text = """HloModule m

%put (stack: f32[100,8], row: f32[1,8], i: s32[]) -> f32[100,8] {
  %stack = f32[100,8]{1,0} parameter(0)
  %row = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %update = f32[100,8]{1,0} dynamic-update-slice(%stack, %row, %i)
}

ENTRY %main (stack.1: f32[100,8], row.1: f32[1,8], i.1: s32[]) -> f32[100,8] {
  %stack.1 = f32[100,8]{1,0} parameter(0)
  %row.1 = f32[1,8]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  ROOT %f = f32[100,8]{1,0} fusion(%stack.1, %row.1, %i.1), kind=kLoop, calls=%put
}
"""
    assert traffic.hbm_bytes(hlo.parse(text)) == 32 + 32 + 4


def test_slices_are_seen_inside_fusions_of_fusions():
    text = """HloModule m

%inner (stack: f32[100,8], i: s32[]) -> f32[1,8] {
  %stack = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%stack, %i), dynamic_slice_sizes={1,8}
}

%outer (i.1: s32[], stack.1: f32[100,8]) -> f32[1,8] {
  %i.1 = s32[] parameter(0)
  %stack.1 = f32[100,8]{1,0} parameter(1)
  %row = f32[1,8]{1,0} fusion(%stack.1, %i.1), kind=kLoop, calls=%inner
  ROOT %twice = f32[1,8]{1,0} add(%row, %row)
}

ENTRY %main (i.2: s32[], stack.2: f32[100,8]) -> f32[1,8] {
  %i.2 = s32[] parameter(0)
  %stack.2 = f32[100,8]{1,0} parameter(1)
  ROOT %f = f32[1,8]{1,0} fusion(%i.2, %stack.2), kind=kLoop, calls=%outer
}
"""
    assert traffic.hbm_bytes(hlo.parse(text)) == 4 + 32 + 32


def test_a_gather_in_parts_beside_matmuls_counts_once():
    """TPUs spread one all-gather over a starting fusion, those it runs beside, and an end."""
    gather = "all-gather(%x{0}), channel_id=7, replica_groups=[2,4]<=[8], dimensions={{0}}"
    parts = "".join(
        f"""
%{name} (x{i}: bf16[4,8]) -> bf16[16,8] {{
  %x{i} = bf16[4,8]{{1,0}} parameter(0)
  ROOT %g{i} = bf16[16,8]{{1,0}} {gather.format(i)}
}}
"""
        for i, name in enumerate(("begin", "async_collective_fusion.9", "finish"))
    )
    text = f"""HloModule m
{parts}
ENTRY %main (p: bf16[4,8]) -> bf16[16,8] {{
  %p = bf16[4,8]{{1,0}} parameter(0)
  %async-collective-start = bf16[16,8]{{1,0}} fusion(%p), kind=kCustom, calls=%begin
  %f = bf16[16,8]{{1,0}} fusion(%p), kind=kOutput, calls=%async_collective_fusion.9
  ROOT %async-collective-done = bf16[16,8]{{1,0}} fusion(%p), kind=kCustom, calls=%finish
}}
"""
    found = find_collectives(hlo.parse(text), MESH)
    assert [(c.kind, c.sent, c.times) for c in found] == [("all-gather", 64 * 3, 1)]


# A step of two slices of 2 x 2 chips, which fsdp splits in two, as libtpu writes one slice's: what
# goes to the other slice is handed to the host; a permute is one of two branches, by device.
SLICED = """HloModule jit_step, is_scheduled=true

%even (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  ROOT %here = f32[8,4]{1,0} collective-permute(%a), channel_id=5, source_target_pairs={{0,1},{1,0}}
}

%odd (b: f32[8,4]) -> f32[8,4] {
  %b = f32[8,4]{1,0} parameter(0)
  ROOT %there = f32[8,4]{1,0} collective-permute(%b), channel_id=5, source_target_pairs={{2,3},{3,2}}
}

ENTRY %main (p: f32[8,4], s: pred[]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %s = pred[] parameter(1)
  %all-reduce.1 = f32[8,4]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,2},{1,3}}, to_apply=%add
  %all-reduce.2 = f32[8,4]{1,0} all-reduce(%p), channel_id=2, replica_groups={}, to_apply=%add
  %token = token[] after-all()
  %send = (f32[8,4]{1,0}, u32[], token[]) send(%all-reduce.1, %token), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[8,4]{1,0}, u32[], token[]) recv(%token), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %send.1 = (bf16[8,4]{1,0}, u32[], token[]) send(%p, %token), channel_id=6, is_host_transfer=true, frontend_attributes={_xla_megascale_target={{200000->100001}},_xla_megascale_transfer_type="ONE_TO_ONE"}
  ROOT %choice = f32[8,4]{1,0} conditional(%s, %p, %p), branch_computations={%even, %odd}
}
"""  # noqa: E501


def test_a_program_of_several_slices_is_one_of_them_and_what_it_hands_to_the_host():
    mesh = {"data": 4, "fsdp": 2, "tensor": 1}
    table = sent_by_axes(find_collectives(hlo.parse(SLICED), mesh, slices=2))
    array = 8 * 4 * 4
    assert table == {
        ("data",): {"all-reduce": array},  # 2 x (2 - 1) / 2: of the two within the slice
        ("data", "fsdp"): {"all-reduce": 2 * array * 3 / 4},  # all four of it
        ("fsdp",): {"collective-permute": array},  # each device runs one branch
        (SLICES,): {"all-reduce": array, "collective-permute": array / 2},
    }
