"""Compressors by name: every module with a Compressor is one, discovered through the entry-point group
`harmonica.compressions`."""

import inspect
from functools import cache

from harmonica.compression.base import Compressor
from harmonica.utils.plugins import discovered, only_class

GROUP = "harmonica.compressions"


@cache
def known_compressors() -> dict[str, str]:
    """Name -> import path of every compressor. Raises UserError for an entry point that cannot be imported."""
    return discovered(GROUP)


def get_compressor(name: str) -> type[Compressor]:
    """The compressor of that name. Raises UserError if it is unknown, cannot be imported, or its module is none."""
    return only_class("compression", name, known_compressors(), Compressor, "another file in baselines/compressions")


def source_file(name: str) -> str:
    """The file that defines a compressor."""
    return inspect.getfile(get_compressor(name))
