"""The SQLite index: answers every query, derived from the store, rebuilt by one command."""

from mvc.index.checked import CheckRecord
from mvc.index.database import Database, Update
from mvc.index.records import BlobRecord, CodecTotal, CommitRecord
from mvc.index.sync import Additions, chained, extend, placed, read_blobs, read_metadata, synchronise

__all__ = [
    "Additions",
    "BlobRecord",
    "CheckRecord",
    "CodecTotal",
    "CommitRecord",
    "Database",
    "Update",
    "chained",
    "extend",
    "placed",
    "read_blobs",
    "read_metadata",
    "synchronise",
]
