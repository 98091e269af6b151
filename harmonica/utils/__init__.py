"""What every package needs and none owns: errors, files, settings, precision. Provenance, devices, memory, torch files,
images and the job log are imported from their modules."""

from harmonica.utils.errors import UserError, guarded, unknown
from harmonica.utils.files import (
    POCKET,
    ROOT,
    SAMPLING,
    WORKFLOW,
    content_hash,
    digest,
    file_hash,
    read_json,
    refuse_pointer,
    source_hash,
    weights_folder,
    write_atomic,
    write_json,
)  # fmt: skip
from harmonica.utils.settings import described, parse, setting, spelled

__all__ = [
    "POCKET", "ROOT", "SAMPLING", "UserError", "WORKFLOW", "content_hash", "described", "digest",
    "file_hash", "guarded", "parse", "read_json", "refuse_pointer", "setting", "source_hash", "spelled",
    "unknown", "weights_folder", "write_atomic", "write_json",
]  # fmt: skip
