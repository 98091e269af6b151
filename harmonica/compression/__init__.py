"""Compressions: a second axis beside plans. A compression turns a backbone into a backbone, and is a file. No torch."""

from harmonica.compression.base import CompressionTask, Compressor, Quantiser
from harmonica.compression.file import Compression, Layer
from harmonica.compression.registry import get_compressor, known_compressors

__all__ = [
    "Compression", "CompressionTask", "Compressor", "Layer", "Quantiser", "get_compressor", "known_compressors",
]  # fmt: skip
