"""File systems that workers open themselves: local folders with pyarrow, everything else with delta-rs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from blake3 import blake3
from pyarrow import fs


def is_local(uri: str) -> bool:
    """Whether `uri` is a path or a file: URI."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def filesystem(root: str) -> fs.FileSystem:
    """A file system whose paths are relative to `root`, a folder or any URI that delta-rs opens."""
    if is_local(root):
        return fs.SubTreeFileSystem(str(local_path(root)), fs.LocalFileSystem(use_mmap=True))
    from deltalake.fs import DeltaStorageHandler

    return fs.PyFileSystem(DeltaStorageHandler(root))


def partition_folder(region: str, date: str) -> str:
    """Folder of a partition, relative to its table; date: "" where there is none. Values are quoted, none leads out."""
    return f"region={quote(region, safe=' ')}" + (f"/date={quote(date, safe='')}" if date else "")


def file_digest(system: fs.FileSystem, path: str) -> str:
    """BLAKE3 of a file's bytes, hexadecimal. Raises OSError."""
    digest = blake3()
    with system.open_input_stream(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
