"""Files of frames: they come back as they were written, and every other file is refused."""

import io
import pickle

from hypothesis import given, settings, strategies as st
import pytest

from dlms_jax.data.frames import read_frames, write_end, write_frame
from dlms_jax.errors import UserError

FRAMES = st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=5)


def content_of(frames) -> bytes:
    stream = io.BytesIO()
    for frame in frames:
        write_frame(stream, *frame)
    write_end(stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One file for all examples of a property."""
    return tmp_path_factory.mktemp("frames") / "00003.frames"


def error_of(path, fields=2) -> str:
    with pytest.raises(UserError) as error:
        list(read_frames(path, fields))
    message = str(error.value)
    assert message.startswith(f"{path} is damaged") and "\n" not in message
    return message


@settings(deadline=None)
@given(frames=FRAMES)
def test_frames_come_back(path, frames):
    path.write_bytes(content_of(frames))
    assert list(read_frames(path, 2)) == frames


@settings(deadline=None)
@given(frames=FRAMES, data=st.data())
def test_file_that_is_cut_off_anywhere_is_refused(path, frames, data):
    """Also between two frames."""
    content = content_of(frames)
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert "cut off" in error_of(path)


@settings(deadline=None)
@given(frames=FRAMES, data=st.data(), change=st.integers(1, 255))
def test_file_with_one_other_byte_is_refused(path, frames, data, change):
    content = bytearray(content_of(frames))
    content[data.draw(st.integers(0, len(content) - 1))] ^= change
    path.write_bytes(content)
    error_of(path)


@settings(deadline=None)
@given(frames=FRAMES, more=st.binary(min_size=1, max_size=40))
def test_file_with_more_behind_its_end_is_refused(path, frames, more):
    path.write_bytes(content_of(frames) + more)
    error_of(path)


@pytest.mark.parametrize(
    "content", [b"", b"d", b"text\n" * 9, pickle.dumps([(b"key", b"text")]), b"dlmF" + b"\xff" * 99]
)
def test_file_of_another_kind_is_refused(path, content):
    """Without asking for the memory that its first bytes would mean as a length."""
    path.write_bytes(content)
    error_of(path)


def test_frames_of_another_number_of_strings_are_refused(path):
    path.write_bytes(content_of([(b"key", b"text")]))
    for fields in (1, 3):
        error_of(path, fields)
