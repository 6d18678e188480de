"""Plain values that every layer shares: object ids, dtypes, tensor specs. No I/O; NumPy only in `values`."""

from mvc.types.dtypes import DTYPES, DType, dtype_of
from mvc.types.ids import ID_BYTES, ObjectId, object_id, raw_id
from mvc.types.tensors import MAX_RANK, TensorSpec, View

__all__ = [
    "DTYPES",
    "ID_BYTES",
    "MAX_RANK",
    "DType",
    "ObjectId",
    "TensorSpec",
    "View",
    "dtype_of",
    "object_id",
    "raw_id",
]
