"""A reader of glTF 2.0 files from outside, .glb, .vrm and .gltf, for programs that add to them.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html. The file is checked and its buffers are
joined to one, the first bytes of which are those of its first buffer. Values are not decoded, so
buffers in other codings (KHR_draco_mesh_compression, EXT_meshopt_compression) pass as they are.
"""

import base64
import binascii
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from common.errors import UserError, reason_of
from export.gltf import BIN_CHUNK, JSON_CHUNK, MAGIC, VERSION
from files.arrays import check_file
from files.texts import MAX_JSON, decode, parse_json

SUFFIXES = (".glb", ".gltf", ".vrm")
MAX_BYTES = 2**31  # of a file with all that it refers to
MAX_GLTF = 2**26  # bytes of a .gltf, which may hold buffers as text
HEADER, CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
SIZES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}  # bytes of a component
COMPRESSIONS = ("EXT_meshopt_compression", "KHR_meshopt_compression")  # of buffer views
PICTURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp",
            b"\xabKTX": "image/ktx2"}  # fmt: skip  # by their first bytes


@dataclass(frozen=True, eq=False)
class GltfFile:
    """The JSON of a file, and the bytes of its first buffer, which holds all that is stored."""

    path: Path
    document: dict[str, Any]
    content: bytes

    def items(self, key: str) -> list[dict[str, Any]]:
        """The objects of a list of the document, such as "meshes"; empty where there is none."""
        return items_of(self.document, key, str(self.path))


def load_gltf(path: str | Path) -> GltfFile:
    """A .glb, .vrm or .gltf with the files that it refers to.

    Raises `UserError`, beginning with "character", for a file that is broken, truncated, not glTF
    2.0 or larger than `MAX_BYTES`, for ranges outside their buffers and for missing files.
    """
    path = check_file(path, "character")
    try:
        size = path.stat().st_size
        if size > (limit := MAX_GLTF if path.suffix.lower() == ".gltf" else MAX_BYTES):
            raise ValueError(f"{size} bytes, expected at most {limit}; export it as .glb")
        content = path.read_bytes()
        text, binary = _chunks(content) if content.startswith(MAGIC) else (content, None)
        return GltfFile(path, *_joined(_document(text), binary, path))
    except OSError as error:
        raise UserError(f"character {path}: cannot be read ({reason_of(error)})") from error
    except ValueError as error:
        raise UserError(f"character {path}: {reason_of(error)}") from error
    except (TypeError, KeyError, AttributeError) as error:  # an object where a list belongs
        raise UserError(
            f"character {path}: broken ({reason_of(error)}); export it again"
        ) from error


def items_of(document: dict[str, Any], key: str, what: str) -> list[dict[str, Any]]:
    """The objects of a list; `UserError` for anything else."""
    items = document.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"character {what}: {key} are no list of objects; export it again")
    return items


def number(item: dict[str, Any], key: str, end: int, default: int | None = None) -> int:
    """An integer of an object, 0 to end - 1; raises `ValueError` for anything else."""
    value = item.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < end:
        raise ValueError(f"broken: {key} is {value!r}, expected 0 to {end - 1}; export it again")
    return value


def _document(text: bytes) -> dict[str, Any]:
    """The object of a JSON text; raises `ValueError` for all but glTF 2."""
    try:
        document = parse_json(decode(text))
        json.dumps(document, allow_nan=False)  # 1e999 is infinite, which JSON cannot store
    except ValueError as error:
        raise ValueError(f"not a .glb, .vrm or .gltf ({reason_of(error)})") from error
    asset = document.get("asset") if isinstance(document, dict) else None
    version = asset.get("version") if isinstance(asset, dict) else None
    if not isinstance(version, str) or not version.startswith("2"):
        raise ValueError(f"glTF {version}, expected glTF 2; export it again as glTF 2.0")
    return document


def _chunks(content: bytes) -> tuple[bytes, bytes | None]:
    """(JSON, bytes or None) of a .glb; raises `ValueError`."""
    if len(content) < HEADER.size + CHUNK.size:
        raise ValueError(f"truncated: {len(content)} bytes; copy it again")
    _, version, length = HEADER.unpack_from(content)
    if version != VERSION:
        raise ValueError(f"glTF {version}, expected glTF 2; export it again as glTF 2.0")
    if length > len(content):
        raise ValueError(f"truncated: {len(content)} bytes, expected {length}; copy it again")
    chunks, place = {}, HEADER.size
    while place + CHUNK.size <= length:
        size, kind = CHUNK.unpack_from(content, place)
        place += CHUNK.size
        if place + size > length:
            raise ValueError("truncated: a part of it ends beyond the file; copy it again")
        chunks.setdefault(kind, content[place : place + size])
        place += size
    if not 0 < len(chunks.get(JSON_CHUNK, b"")) <= MAX_JSON:
        raise ValueError(f"broken: no JSON, or more than {MAX_JSON} bytes of it; export it again")
    return chunks[JSON_CHUNK], chunks.get(BIN_CHUNK)


def _joined(
    document: dict[str, Any], binary: bytes | None, path: Path
) -> tuple[dict[str, Any], bytes]:
    """The document, changed in place, and the bytes of its only buffer that stores any."""
    buffers = items_of(document, "buffers", str(path))
    views = items_of(document, "bufferViews", str(path))
    _check_views(views, buffers)
    _check_accessors(items_of(document, "accessors", str(path)), views)
    content, kept, places = bytearray(), [{"byteLength": 0}], {}
    for index, buffer in enumerate(buffers):
        stored = _stored(buffer, binary if index == 0 else None, path)
        if stored is None:  # meshopt's views have their bytes in another buffer
            places[index] = len(kept), 0
            kept.append(buffer)
            continue
        content += bytes(-len(content) % 4)
        places[index] = 0, len(content)
        content += stored
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes; export smaller textures")
        kept[0] |= {k: v for k, v in buffer.items() if k in ("name", "extras") and index == 0}
    for view in views:
        extensions = view.get("extensions", {})
        for part in (view, *(extensions[name] for name in COMPRESSIONS if name in extensions)):
            part["buffer"], offset = places[number(part, "buffer", len(buffers))]
            if offset or "byteOffset" in part:
                part["byteOffset"] = part.get("byteOffset", 0) + offset
    _add_pictures(document, content, path)
    kept[0]["byteLength"] = len(content)
    document["buffers"] = kept
    return document, bytes(content)


def _check_views(views: list[dict], buffers: list[dict]) -> None:
    for index, view in enumerate(views):
        compressed = (view.get("extensions", {}).get(name) for name in COMPRESSIONS)
        for part in (view, *filter(None, compressed)):
            buffer = buffers[number(part, "buffer", len(buffers))]
            end = number(part, "byteOffset", MAX_BYTES, 0) + number(part, "byteLength", MAX_BYTES)
            if end > (size := number(buffer, "byteLength", MAX_BYTES)):
                raise ValueError(
                    f"broken: buffer view {index} ends at byte {end} of a buffer of {size}; export "
                    "it again"
                )


def _check_accessors(accessors: list[dict], views: list[dict]) -> None:
    """Raise `ValueError` where values, or the sparse ones of them, lie outside their view."""
    for index, accessor in enumerate(accessors):
        what, kind = f"accessor {index}", accessor.get("type")
        if kind not in WIDTHS or accessor.get("componentType") not in SIZES:
            raise ValueError(f"broken: {what} has an unknown type; export it again")
        count = number(accessor, "count", MAX_BYTES)
        size = WIDTHS[kind] * SIZES[accessor["componentType"]]
        if "bufferView" in accessor:
            _check_range(what, accessor, count, size, views)
        if "sparse" in accessor:
            sparse = accessor["sparse"]
            changed, indices = number(sparse, "count", count + 1), sparse["indices"]
            if indices.get("componentType") not in SIZES:
                raise ValueError(f"broken: {what} has an unknown type; export it again")
            _check_range(what, indices, changed, SIZES[indices["componentType"]], views)
            _check_range(what, sparse["values"], changed, size, views)


def _check_range(what: str, place: dict, count: int, size: int, views: list[dict]) -> None:
    view = views[number(place, "bufferView", len(views))]
    stride = number(view, "byteStride", 253, size)
    end = number(place, "byteOffset", MAX_BYTES, 0) + max(count - 1, 0) * stride + size
    if end > view["byteLength"]:
        raise ValueError(
            f"broken: {what} ends at byte {end} of a buffer view of {view['byteLength']}; export "
            "it again"
        )


def _stored(buffer: dict[str, Any], binary: bytes | None, path: Path) -> bytes | None:
    """The bytes of a buffer; None of one without any."""
    size = number(buffer, "byteLength", MAX_BYTES)
    if "uri" in buffer:
        content = _referenced(buffer["uri"], path)
    elif binary is not None:
        content = binary
    elif any(name in buffer.get("extensions", {}) for name in COMPRESSIONS):
        return None
    else:
        raise ValueError("truncated: a buffer without bytes; copy it again")
    if len(content) < size:
        raise ValueError(f"truncated: a buffer of {len(content)} bytes, expected {size}")
    return content[:size]


def _add_pictures(document: dict[str, Any], content: bytearray, path: Path) -> None:
    """Add the pictures that are files to `content`; the document refers to them there."""
    views = document.setdefault("bufferViews", [])
    for image in items_of(document, "images", str(path)):
        uri = image.get("uri")
        if uri is None or (isinstance(uri, str) and uri.startswith("data:")):
            continue
        picture = _referenced(uri, path)
        kind = next((name for start, name in PICTURES.items() if picture.startswith(start)), None)
        if kind is None:
            raise ValueError(f"{uri}: expected a PNG or JPEG picture; export it as .glb")
        content += bytes(-len(content) % 4)
        image |= {"bufferView": len(views), "mimeType": kind}
        del image["uri"]
        views.append({"buffer": 0, "byteOffset": len(content), "byteLength": len(picture)})
        content += picture
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes; export smaller textures")
    if not views:
        del document["bufferViews"]


def _referenced(uri: Any, path: Path) -> bytes:
    """The bytes behind a data: URI, or of a file in the folder of the .gltf or below."""
    if not isinstance(uri, str):
        raise ValueError(f"broken: uri is {uri!r}; export it again")
    if uri.startswith("data:"):
        head, comma, text = uri.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("broken: a data URI without base64; export it again")
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"broken: a data URI ({reason_of(error)}); export it again") from error
    folder = path.parent.resolve()
    file = (folder / unquote(uri)).resolve()
    if "://" in uri or not file.is_relative_to(folder):
        raise ValueError(f"refers to {uri[:200]}, expected a file beside it; export it as .glb")
    if not file.is_file():
        raise ValueError(f"{uri[:200]} is missing; put it beside {path.name}, or export as .glb")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{uri[:200]}: more than {MAX_BYTES} bytes; export smaller textures")
    return file.read_bytes()
