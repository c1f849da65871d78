"""Files of frames: they come back as they were written, and every other file is refused."""

import io
import pickle

from hypothesis import given, settings, strategies as st
import pytest

from dlms_jax.data.frames import FrameWriter, read_frames
from dlms_jax.errors import UserError

RECORDS = st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=5)
FILES = st.lists(RECORDS, max_size=3)  # what several writers write


def content_of(parts) -> bytes:
    stream = io.BytesIO()
    for records in parts:
        writer = FrameWriter(stream, 2)
        for record in records:
            writer.write(record)
        writer.flush()
    FrameWriter(stream, 2).end()
    return stream.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One file for all examples of a property."""
    return tmp_path_factory.mktemp("frames") / "00003.frames"


def error_of(path, width=2) -> str:
    with pytest.raises(UserError) as error:
        list(read_frames(path, width))
    message = str(error.value)
    assert message.startswith(f"{path} is damaged") and "\n" not in message
    return message


@settings(deadline=None)
@given(parts=FILES)
def test_records_come_back(path, parts):
    path.write_bytes(content_of(parts))
    assert list(read_frames(path, 2)) == [record for records in parts for record in records]


def test_frames_are_written_as_they_fill_up(path):
    """A writer holds little, however much it is given."""
    records = [(b"%d" % number, b"text " * 500) for number in range(400)]
    stream = io.BytesIO()
    writer = FrameWriter(stream, 2)
    written = 0
    for record in records:
        writer.write(record)
        written += len(record[1])
        assert written - stream.tell() < 70_000
    writer.end()
    path.write_bytes(stream.getvalue())
    assert list(read_frames(path, 2)) == records


@settings(deadline=None)
@given(parts=FILES, data=st.data())
def test_file_that_is_cut_off_anywhere_is_refused(path, parts, data):
    """Also between two frames."""
    content = content_of(parts)
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert "cut off" in error_of(path)


@settings(deadline=None)
@given(parts=FILES, data=st.data(), change=st.integers(1, 255))
def test_file_with_one_other_byte_is_refused(path, parts, data, change):
    content = bytearray(content_of(parts))
    content[data.draw(st.integers(0, len(content) - 1))] ^= change
    path.write_bytes(content)
    error_of(path)


@settings(deadline=None)
@given(parts=FILES, more=st.binary(min_size=1, max_size=40))
def test_file_with_more_behind_its_end_is_refused(path, parts, more):
    path.write_bytes(content_of(parts) + more)
    error_of(path)


@pytest.mark.parametrize(
    "content", [b"", b"d", b"text\n" * 9, pickle.dumps([(b"key", b"text")]), b"dlmF" + b"\xff" * 99]
)
def test_file_of_another_kind_is_refused(path, content):
    """Without asking for the memory that its first bytes would mean as a length."""
    path.write_bytes(content)
    error_of(path)


def test_records_of_another_number_of_strings_are_refused(path):
    path.write_bytes(content_of([[(b"key", b"text")]]))
    for width in (1, 3):
        error_of(path, width)
