"""In which order contents come."""

from mvc.objects.manifest import FileEntry, Manifest, Segment
from mvc.remotes.negotiation import neighbours, new_contents
from mvc.types import object_id


def oid(number):
    """Return an id."""
    return object_id(number.to_bytes(32, "little"))


def manifest(*numbers):
    """Return a manifest of one file of tensors of 8 bytes."""
    return Manifest(
        (FileEntry("m.bin", 0o644, "opaque", tuple(Segment("tensor", oid(item), 8) for item in numbers)),), ()
    )


def test_versions_of_one_tensor_follow_each_other():
    """As each is likely to be a delta of the one before, of which nothing is forgotten then."""
    manifests = [manifest(1, 2, 3), manifest(11, 2, 13), manifest(21, 22, 23)]
    found = new_contents(manifests, {})
    assert list(found) == [oid(number) for number in (1, 2, 3, 11, 13, 21, 22, 23)]
    assert list(neighbours(found, manifests)) == [oid(number) for number in (1, 11, 21, 2, 22, 3, 13, 23)]


def test_some_contents_of_many_commits():
    """What is wanted stays all that there is; and commits far apart do not mix, lest packs be read in small pieces."""
    manifests = [manifest(2 * number + 2, 2 * number + 3) for number in range(40)]
    found = dict(new_contents(manifests, {}))
    del found[oid(2)]
    ordered = neighbours(found, manifests)
    assert ordered == found
    assert [*ordered][:31] == [oid(2 * number + 2) for number in range(1, 16)] + [
        oid(2 * number + 3) for number in range(16)
    ]
