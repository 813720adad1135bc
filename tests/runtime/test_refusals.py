"""What a stage says on the wire is what a client raises, in the words of the API."""

import pytest

from icgan_runtime.errors import DecodeError, RequestError
from icgan_runtime.refusals import from_wire, to_wire


@pytest.mark.parametrize("field", ["seed", "truncation", "condition", "label", "embedding"])
def test_a_refusal_survives_the_wire(field):
    words = to_wire(RequestError(field, "-1, expected\n0: or more"))
    assert words == f"{field.upper()}: -1, expected\n0: or more"
    for spoken in (words, f"in ensemble 'icgan', {words}"):
        found = from_wire(spoken)
        assert (found.field, found.problem) == (field, "-1, expected\n0: or more")


@pytest.mark.parametrize("tensor", ["IMAGE", "PIXELS"])
def test_a_picture_has_the_tensors_name_on_the_wire_and_the_users_after_it(tensor):
    words = to_wire(DecodeError("not a picture"), tensor)
    assert words == f"{tensor}: not a picture"
    found = from_wire(words)
    assert isinstance(found, DecodeError)
    assert str(found) == "picture: not a picture"


def test_words_of_the_server_itself_are_kept_whole():
    assert str(from_wire("unexpected shape for input")) == "request: unexpected shape for input"
