"""Weights files with odd tensors, odd headers and odd pickles, over the state dict of a small network.

torch's older pickles hold addresses of memory, so those alone differ between two files of one seed.
"""

from __future__ import annotations

import collections
import contextlib
import io
import json
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from fuzz_mutations import NUMBERS, RAW_JSON, TEXTS, json_bytes, mutated, mutated_bytes
from hostile_pickle import Hostile
from safetensors.torch import save
from torch import Tensor

CODES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "C64",
    "U64",
    "F4",
    "x",
)
KINDS = (
    *(torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int8, torch.bool),
    *(torch.complex64, torch.uint16),
)


def odd_tensors(tensors: dict[str, Tensor], chance: random.Random) -> dict[str, Any]:
    """The tensors with some that have another name, kind, shape or content."""
    out: dict[str, Any] = dict(tensors)
    for _ in range(chance.choice((0, 1, 1, 2))):
        name = chance.choice(list(out))
        out[name] = _odd_tensor(out[name], chance)
        match chance.randrange(8):
            case 0:
                out[chance.choice(TEXTS)] = out.pop(name)
            case 1:
                del out[name]
            case 2:
                out[chance.choice(TEXTS)] = torch.zeros(chance.choice((0, 1, 3)))
            case 3:
                prefix = chance.choice(
                    ("module.", "_orig_mod.", "model.", "net.", "module.module.model.net.x.")
                )
                out = {prefix + key: value for key, value in out.items()}
        out = out or dict(tensors)
    return out


def _odd_tensor(value: Any, chance: random.Random) -> Any:
    if not isinstance(value, Tensor):
        return value
    ways = [
        lambda: value.to(chance.choice(KINDS)),
        lambda: torch.full_like(
            value.float(), float(chance.choice((1e38, -1e38, 1e-45, float("nan"), float("inf"))))
        ),
        value.flatten,
        lambda: value[None],
        lambda: torch.zeros(()),
        lambda: torch.zeros(0, *value.shape[1:]),
        lambda: value,
        lambda: value,
    ]
    return chance.choice(ways)()


def hostile_safetensors(tensors: dict[str, Tensor], chance: random.Random) -> bytes:
    """A safetensors file: of odd tensors, with a changed header, or with changed bytes."""
    plain = {name: value.contiguous() for name, value in odd_tensors(tensors, chance).items()}
    try:
        data = save({name: value.clone() for name, value in plain.items()}, {"format": "pt"})
    except Exception:  # A library that cannot write it leaves the plain one to be changed.
        data = save(dict(tensors))
    kind = chance.random()
    if kind < 0.35:
        return data
    if kind < 0.5:
        return mutated_bytes(data, chance)
    length = int.from_bytes(data[:8], "little")
    header = mutated(json.loads(data[8 : 8 + length]), chance, RAW_JSON)
    _shift(header, chance, len(data) - 8 - length)
    text = json_bytes(header, chance)
    stated = (
        len(text) if chance.random() < 0.9 else chance.choice((0, 1, 2**31, 2**63, 2**64 - 1, 99_999_999))
    )
    return struct.pack("<Q", stated) + text + data[8 + length :]


def _shift(header: Any, chance: random.Random, size: int) -> None:
    """Gives one tensor of the header another type, shape or place, in the form that the format has."""
    rows = [row for row in header.values() if isinstance(row, dict)] if isinstance(header, dict) else []
    if not rows or chance.random() < 0.4:
        return
    row = chance.choice(rows)
    huge = [2 ** chance.choice((10, 20, 31, 40, 62)), chance.choice((0, 1, 2**20))]
    changes = {
        "dtype": chance.choice(CODES),
        "shape": chance.choice((huge, [], [0], [1] * 70, [1] * 5_000, [-1], [2**64])),
        "data_offsets": chance.choice(([0, 0], [0, size], [size, 0], [-1, 4], [0, 2**63], [8, 12], [0])),
    }
    name = chance.choice(list(changes))
    row[name] = changes[name]


class _Calls:
    """A pickle of it calls a function that its reader may know."""

    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.parts = function, arguments

    def __reduce__(self) -> Any:
        return self.parts


def hostile_pickle(tensors: dict[str, Tensor], chance: random.Random, marker: Path) -> bytes:
    """A pickle: of odd tensors, of other things, of calls, with changed bytes or names."""
    content = chance.choice((_wrapped, _wrapped, _stretched, _other))(tensors, chance, marker)
    data = _pickled(content, chance)
    kind = chance.random()
    if kind < 0.5:
        return data
    if kind < 0.7 and data.startswith(b"PK"):
        return _repacked(data, chance)
    return mutated_bytes(data, chance)


def _pickled(content: Any, chance: random.Random) -> bytes:
    stream = io.BytesIO()
    way = chance.random()
    if way < 0.75:
        torch.save(content, stream, _use_new_zipfile_serialization=way < 0.55)
    else:
        pickle.dump(content, stream, protocol=chance.randrange(6))
    return stream.getvalue()


def _wrapped(tensors: dict[str, Tensor], chance: random.Random, _marker: Path) -> Any:
    content: Any = odd_tensors(tensors, chance)
    for _ in range(chance.choice((0, 1, 1, 2, 12))):
        content = {chance.choice(("state_dict", "net", "model", "model_state_dict", "x")): content}
        if chance.random() < 0.3:
            content[chance.choice(TEXTS)] = chance.choice(NUMBERS)
    if chance.random() < 0.05:
        content["net"] = content
    return collections.OrderedDict(content) if chance.random() < 0.3 else content


def _stretched(tensors: dict[str, Tensor], chance: random.Random, _marker: Path) -> Any:
    """Tensors that state more numbers than the file holds, or are of a rare kind."""
    side = chance.choice((2**10, 2**14, 2**16, 2**20, 2**31, 2**40))
    shape = chance.choice(((side,), (side, 1), (side, 64), (side, side)))
    one = torch.zeros(1)
    ways = [
        lambda: one.expand(chance.choice((side, 64)), 64) if side < 2**31 else one,
        lambda: torch.empty(shape, device="meta"),
        lambda: torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (side % 2**31, 9)),
        lambda: torch.sparse_csr_tensor(
            torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, min(side, 2**20))
        ),
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.nn.Parameter(torch.ones(3)),
        lambda: _Calls(
            torch._utils._rebuild_tensor_v2,
            (torch.ones(1).storage(), 0, shape, (0,) * len(shape), False, None),
        ),
        lambda: _Calls(torch._utils._rebuild_tensor, (torch.ones(1).storage(), 5, shape, (1,) * len(shape))),
    ]
    name = chance.choice(list(tensors))
    content = {**tensors}
    with contextlib.suppress(RuntimeError):  # torch itself makes no tensor of that size
        content[chance.choice((name, name, "x"))] = chance.choice(ways)()
    return content


def _other(tensors: dict[str, Tensor], chance: random.Random, marker: Path) -> Any:
    size = chance.choice((10, 2**28, 2**40))
    things = [
        lambda: Hostile(marker),
        lambda: {"net": Hostile(marker), **tensors},
        lambda: _Calls(bytearray, (size,)),
        lambda: _Calls(torch.Size, ([size],)),
        lambda: {name: _Calls(collections.Counter, ({"a": size},)) for name in tensors},
        lambda: _Calls(eval, (f"open({str(marker)!r}, 'w')",)),
        lambda: list(tensors.values()),
        lambda: {chance.choice((1, None, (1, 2), b"x", 1.5)): torch.ones(1), **tensors},
        lambda: chance.choice((None, 1, "x", b"x", [], {}, {"net": {}}, {"net": []}, set())),
        lambda: torch.device("meta"),
        torch.nn.Identity,
    ]
    return chance.choice(things)()


def _repacked(data: bytes, chance: random.Random) -> bytes:
    """The archive with changes inside of a member, or with other members."""
    out, way = io.BytesIO(), chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = chance.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen or (name.endswith("data.pkl") and chance.random() < 0.6):
                content = _changed_member(content, chance)
            if name != chosen or chance.random() < 0.9:
                new.writestr(zipfile.ZipInfo(name), content, way)  # without the time
        if chance.random() < 0.2:
            extra = chance.choice(
                ("../../escaped", "/tmp/escaped", names[0], "archive/.data/serialization_id", "x" * 300)
            )
            new.writestr(zipfile.ZipInfo(extra), bytes(chance.choice((0, 9, 50_000_000))), way)
    return out.getvalue()


def _changed_member(content: bytes, chance: random.Random) -> bytes:
    swaps = (
        (b"ctorch._utils\n", b"cos\n"),
        (b"_rebuild_tensor_v2", b"system"),
        (b"FloatStorage", b"UntypedStorage"),
    )
    swaps += (
        (b"cpu", b"meta"),
        (b"cpu", b"xpu"),
        (b"FloatStorage", b"DoubleStorage"),
        (b"collections\nOrderedDict", b"os\nsystem"),
    )
    if chance.random() < 0.5:
        return content.replace(*chance.choice(swaps))
    return mutated_bytes(content, chance)
