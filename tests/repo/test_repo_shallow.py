"""The list of commits that are absent by design (spec-v1, section 12)."""

from pathlib import Path

import pytest

from mvc.errors import MalformedError
from mvc.repo.shallow import read_shallow, write_shallow

GOLDEN = Path(__file__).parent.parent / "golden" / "store" / "shallow"


def test_as_version_1_has_it(lab):
    """What was written then is read, and what is written now is the same."""
    lab.session.layout.shallow.write_bytes(GOLDEN.read_bytes())
    absent = read_shallow(lab.session.layout)
    assert absent == {"01" * 32, "ab" * 32}
    lab.session.layout.shallow.unlink()
    write_shallow(lab.session, absent)
    assert lab.session.layout.shallow.read_bytes() == GOLDEN.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"01" * 32,
        b"01" * 32 + b"\r\n",
        b"AB" * 32 + b"\n",
        b"ab" * 32 + b"\n" + b"01" * 32 + b"\n",
        b"01" * 32 + b"\n" + b"01" * 32 + b"\n",
        b"01" * 31 + b"\n",
        b"\n",
    ],
)
def test_what_is_no_list(lab, content):
    """Lines in another order, twice, cut short, or of other digits."""
    lab.session.layout.shallow.write_bytes(content)
    with pytest.raises(MalformedError):
        read_shallow(lab.session.layout)
