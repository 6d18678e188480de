"""``python -m mvc``."""

from __future__ import annotations

from mvc.cli.main import main

if __name__ == "__main__":
    main()
