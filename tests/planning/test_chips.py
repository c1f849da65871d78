"""Slices that there are, and one line for those that there are not."""

import pytest

from dlms_jax.errors import UserError
from dlms_jax.planning.chips import CHIPS, parse_topology


@pytest.mark.parametrize(
    ("text", "slices", "message"),
    [
        ("v9:2x2", 1, "unknown chip 'v9'; use one of v5e, v5p, v6e"),
        ("v5e", 1, "a chip and a slice, such as v5e:4x4"),
        ("v5e:4by4", 1, "a chip and a slice"),
        ("v5e:0x4", 1, "a chip and a slice"),
        ("v5p:4x4", 1, "3 sides: v5p:4x4x4"),
        ("v6e:4x4x4", 1, "2 sides"),
        ("v5e:3x4", 1, "should be even"),
        ("v6e:32x32", 1, "at most 256 chips"),
        ("v5e:4x4", 0, "--slices=0 should be at least 1"),
    ],
)
def test_a_slice_that_is_none_is_refused(text, slices, message):
    with pytest.raises(UserError, match=message):
        parse_topology(text, slices)


def test_chips_of_a_topology():
    topology = parse_topology("v5p:4x4x8", 2)
    assert (topology.slice_chips, topology.chips) == (128, 256)
    assert (topology.name, topology.text) == ("v5p:4x4x8", "2 x v5p:4x4x8")
    assert parse_topology("v5e:1x1").chips == 1


def test_rings_have_two_links_where_they_close():
    link = CHIPS["v5p"].link_bandwidth
    assert parse_topology("v5p:4x4x4").ici_bandwidth == 6 * link  # the data sheet's, one way
    assert parse_topology("v5p:2x2x1").ici_bandwidth == 2 * link
    assert parse_topology("v5e:16x16").ici_bandwidth == 4 * CHIPS["v5e"].link_bandwidth
    assert parse_topology("v5e:8x16").ici_bandwidth == 3 * CHIPS["v5e"].link_bandwidth


def test_a_larger_slice_doubles_the_shortest_side_up_to_the_largest_there_is():
    names, topology = [], parse_topology("v6e:2x2")
    while topology := topology.larger():
        names.append(topology.name)
    assert names == ["v6e:2x4", "v6e:4x4", "v6e:4x8", "v6e:8x8", "v6e:8x16", "v6e:16x16"]
    assert parse_topology("v5p:2x2x4").larger().name == "v5p:2x4x4"
