"""JSON documents: what ``--json`` prints (docs/reference/json.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from mvc.cli.text import iso_time
