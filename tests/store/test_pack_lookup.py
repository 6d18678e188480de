"""The lookup of packs by the beginnings of ids: candidates, never a miss."""

from hypothesis import given
from hypothesis import strategies as st

from mvc.store.layout import EntryKind, PackEntry
from mvc.store.pack_index import PackIndex, encode_index
from mvc.store.pack_lookup import PackLookup
from mvc.types import object_id

IDS = st.integers(0, 9).map(lambda number: object_id(f"{number // 3:016x}{number:048x}"))
"""Ids of which some begin alike."""


def index(number, ids):
    """Return the index of a pack."""
    pack = object_id(f"{number:064x}")
    return PackIndex(encode_index(pack, [PackEntry(oid, EntryKind.TENSOR, 100, 1) for oid in ids]), pack)


@given(st.lists(st.sets(IDS, min_size=1), max_size=5), IDS)
def test_every_pack_that_holds_an_id_is_a_candidate(packs, wanted):
    """And every candidate holds an id that begins so."""
    lookup = PackLookup()
    indexes = [index(number, ids) for number, ids in enumerate(packs)]
    for item in indexes:
        lookup.add(item)
    found = list(lookup.candidates(wanted))
    assert {item.pack for item in found if item.find(wanted)} == {item.pack for item in indexes if item.find(wanted)}
    assert all(any(entry.oid[:16] == wanted[:16] for entry in item) for item in found)
