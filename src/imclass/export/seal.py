"""Exported file <-> the same file with its own sha256 inside, where the format has room for it; any reader takes both.

The hash tells damage and another's file from what `export` wrote. Who means harm can compute it too.
"""

import hashlib
from pathlib import Path

from imclass.errors import InputError
from imclass.files import name_in_errors

METADATA_KEY = "imclass"  # in an exported file: JSON with its classes and the fit of its images
HASH_LENGTH = 64
ONNX_ENTRY = b"rJ\n\x06sha256\x12@"  # in protobuf: one more of metadata_props, sha256 with a text of 64 bytes
ZIP_COMMENT = b"@\0"  # the last two bytes of a zip give the length of a comment; here 64, else 0


def seal_onnx(content: bytes) -> bytes:
    """Add the hash of an ONNX file to its metadata, as `sha256`."""
    return content + ONNX_ENTRY + _hash(content)


def seal_zip(content: bytes) -> bytes:
    """Add the hash of a zip archive without a comment, as its comment."""
    return content[:-2] + ZIP_COMMENT + _hash(content)


def read_sealed(path: Path) -> bytes:
    """A file's content, seal included. Raises InputError where it is not what the hash was taken of."""
    with name_in_errors(path):
        sealed = path.read_bytes()
    content = sealed[:-HASH_LENGTH]
    if sealed not in (
        seal_onnx(content.removesuffix(ONNX_ENTRY)),
        seal_zip(content.removesuffix(ZIP_COMMENT) + b"\0\0"),
    ):
        raise InputError(f"{path}: damaged, or not a file that export wrote")
    return sealed


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
