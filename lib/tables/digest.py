"""Digests of rows, and of sets of rows, that depend on the values alone: not on files, chunks or order.

BLAKE3, and for large values GMAC (NIST SP 800-38D) under a fixed key, four times faster: two values that were not made
to collide get equal tags with a chance of at most their blocks of 16 bytes in 2^128 (McGrew & Viega, INDOCRYPT 2004).
Neither is meant against forgery: whoever may write rows may write results too.

Each row is encoded in a fixed width: per column a byte that says whether there is a value, then the value's own bytes,
or the 32-byte digest of a value of variable length. So no value can pass for a part of its neighbour.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SIZE = 32
# Values shorter than this on average are worth looking for equal ones.
_SHORT = 512
_WORTH = 16
_LARGE = 1 << 16
_MOST = (1 << 31) - 1  # what one call of the library takes
_GMAC = AESGCM(blake3(b"gridsink rows").digest()[:16])
_NONCE = bytes(12)


def row_digests(rows: pa.Table, columns: Sequence[str], schema: pa.Schema) -> list[bytes]:
    """32 bytes for each row: of the columns' names, their types in `schema`, and the row's values cast to them.

    Null differs from every value, -0.0 from 0.0; every NaN is the same. A column that the rows lack is null. Raises
    KeyError for a column that `schema` lacks, pyarrow.ArrowException where a cast would lose something, TypeError for
    a type without an encoding (maps, unions).
    """
    names = sorted(set(columns))
    types = [schema.field(name).type for name in names]
    header = _header(tuple(zip(names, types, strict=True)))
    if not rows.num_rows:
        return []
    blocks = [np.broadcast_to(np.frombuffer(header, np.uint8), (rows.num_rows, _SIZE))]
    for name, kind in zip(names, types, strict=True):
        column = rows.column(name) if name in rows.schema.names else pa.chunked_array([pa.nulls(rows.num_rows, kind)])
        blocks.append(np.concatenate([_encode(_cast(chunk, kind)) for chunk in column.chunks if len(chunk)]))
    matrix = np.concatenate(blocks, axis=1)
    return _digests(matrix.reshape(-1).data, np.arange(rows.num_rows + 1) * matrix.shape[1])


def of_rows(digests: Iterable[bytes]) -> str:
    """Digest of a set of rows that may repeat, in any order; hexadecimal."""
    ordered = sorted(digests)
    return blake3(len(ordered).to_bytes(8, "little") + b"".join(ordered)).hexdigest()


def of_parts(parts: Mapping[str, Any]) -> str:
    """Digest of named values that JSON can hold, in any order of their names; hexadecimal."""
    return of_bytes(_json(parts))


def of_bytes(data: Any) -> str:
    """Digest of bytes, or of anything with their buffer; hexadecimal."""
    return blake3(data).hexdigest()


def cell_digest(inputs: Mapping[str, str], length_s: int) -> str:
    """Digest of all that an operator reads of a cell: its inputs' digests by table, the day's length in s."""
    return of_parts({"inputs": dict(inputs), "length_s": length_s})


@lru_cache(maxsize=64)
def _header(columns: tuple[tuple[str, pa.DataType], ...]) -> bytes:
    return blake3(_json([[name, _type_name(kind)] for name, kind in columns])).digest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


@lru_cache(maxsize=256)
def _type_name(kind: pa.DataType) -> str:
    """The type's name, the same for all layouts of the same values."""
    if pa.types.is_dictionary(kind):
        return _type_name(kind.value_type)
    if _is_text(kind):
        return "string"
    if _is_binary(kind):
        return "binary"
    if _is_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return "struct" + _json([[f.name, _type_name(f.type)] for f in kind]).decode()
    return str(kind)


@lru_cache(maxsize=256)
def _plain(kind: pa.DataType) -> pa.DataType:
    """The type in a layout that `_encode` reads: offsets and values."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if _is_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_plain(f.type)) for f in kind])
    return kind


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The array as `kind`; left as it is where only the layout differs, so that large values are not copied."""
    if pa.types.is_dictionary(array.type):
        return pa.DictionaryArray.from_arrays(array.indices, _cast(array.dictionary, kind))
    same = _type_name(array.type) == _type_name(kind)
    wanted = _plain(array.type if same else kind)
    return array if array.type == wanted else array.cast(wanted)


def _encode(array: pa.Array) -> np.ndarray:
    """uint8 [n][1 + width]: 1 and the value, or zeros."""
    kind, n = array.type, len(array)
    if pa.types.is_dictionary(kind):
        return _of_dictionary(array)
    if _is_text(kind) or _is_binary(kind):
        values = _of_binary(array)
    elif _is_list(kind):
        values = _of_list(array)
    elif pa.types.is_struct(kind):
        fields = [_encode(field) for field in array.flatten()] if n else []
        values = np.concatenate(fields, axis=1) if fields else np.empty((n, 0), np.uint8)
    else:
        values = _of_fixed(array)
    cells = np.empty((n, 1 + values.shape[1]), np.uint8)
    cells[:, 0] = 1
    cells[:, 1:] = values
    if array.null_count:
        cells[array.is_null().to_numpy(zero_copy_only=False)] = 0
    return cells


def _of_fixed(array: pa.Array) -> np.ndarray:
    kind, n = array.type, len(array)
    if pa.types.is_boolean(kind):
        array, kind = array.cast(pa.uint8()), pa.uint8()
    if not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind)):
        raise TypeError(f"values of type {kind} have no encoding for digests")
    width = kind.bit_width // 8
    buffer = array.buffers()[1]
    if not n or buffer is None:
        return np.zeros((n, width), np.uint8)
    values = np.frombuffer(buffer, np.uint8)[array.offset * width : (array.offset + n) * width]
    if pa.types.is_floating(kind):
        floats = values.view(f"f{width}")
        nan = np.isnan(floats)
        if nan.any():
            values = np.where(nan, np.array(np.nan, floats.dtype), floats).view(np.uint8)
    return values.reshape(n, width)


def _of_binary(array: pa.Array) -> np.ndarray:
    starts = _offsets(array)
    if len(array) >= _WORTH and starts[-1] - starts[0] < _SHORT * len(array):
        encoded = array.dictionary_encode()
        if len(encoded.dictionary) <= len(array) // 2:
            return _of_dictionary(encoded)[:, 1:]
    return _of_binary_each(array)


def _of_dictionary(array: pa.DictionaryArray) -> np.ndarray:
    """As `_encode`, each distinct value once."""
    distinct = _encode(array.dictionary)
    # one row more, for null
    cells = np.concatenate([distinct, np.zeros((1, distinct.shape[1]), np.uint8)])
    return cells[array.indices.cast(pa.int64()).fill_null(len(distinct)).to_numpy(zero_copy_only=False)]


def _of_binary_each(array: pa.Array) -> np.ndarray:
    buffer = array.buffers()[2]
    return _matrix(_digests(memoryview(b"" if buffer is None else buffer), _offsets(array)))


def _of_list(array: pa.Array) -> np.ndarray:
    # The digest of the elements' encodings side by side, all of one width.
    starts = _offsets(array)
    elements = _encode(array.values.slice(starts[0], starts[-1] - starts[0]))
    return _matrix(_digests(elements.reshape(-1).data, (starts - starts[0]) * elements.shape[1]))


def _offsets(array: pa.Array) -> np.ndarray:
    """Where each value begins, and the last one ends."""
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return np.zeros(len(array) + 1, np.int64)
    large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    wide = np.int64 if large or pa.types.is_large_list(array.type) else np.int32
    return np.frombuffer(buffer, wide)[array.offset : array.offset + len(array) + 1]


def _digests(data: memoryview, bounds: np.ndarray) -> list[bytes]:
    at = bounds.tolist()
    return [_tag(data[a:b]) if _LARGE <= b - a <= _MOST else blake3(data[a:b]).digest() for a, b in pairwise(at)]


def _tag(value: memoryview) -> bytes:
    """32 bytes: the tag, then the length."""
    return _GMAC.encrypt(_NONCE, b"", value.cast("B")) + len(value).to_bytes(16, "little")


def _matrix(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _SIZE)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
