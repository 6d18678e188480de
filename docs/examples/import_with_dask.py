"""Import a history with the tensors encoded by Dask workers.

Workers need mvc and its dependencies, and neither the repository nor the files: they are sent bytes, and send bytes
back. Run where the files and the repository are:

    pip install distributed
    python import_with_dask.py runs/exp7 out/run-7 tcp://scheduler:8786

Without an address, two processes of this machine work. The same from the command line, where `executor` is called
without arguments:

    PYTHONPATH=docs/examples mvc -C runs/exp7 import out/run-7 --executor import_with_dask:executor
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from distributed import Client

import mvc
from mvc.migration import import_history


@contextmanager
def executor(address: str | None = None) -> Iterator[Executor]:
    """Yield what hands tasks to a Dask cluster: the one at `address`, or two processes of this machine."""
    options = {"address": address} if address else {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with Client(**options) as client:
        yield client.get_executor(pure=False)


def main(repository: str, source: str, address: str | None = None) -> None:
    """Import `source` into `repository`."""
    with executor(address) as workers:
        done = import_history(mvc.open(repository), source, executor=workers)
    print(f"{done.imported} commits imported, {done.stored_bytes:,} of {done.logical_bytes:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
