"""Seeded changes of valid inputs: of values, of JSON and YAML texts, and of bytes.

Every function takes a ``random.Random``, so the seed of an input alone makes it again.
"""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

import yaml

NUMBERS = (
    *(0, -1, 1, 2, 3, 7, 255, 256, 4096, 4097, 65_536, 100_001, 2**31 - 1, 2**31, 2**32, 2**53 + 1),
    *(2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 0.0, -0.0, 0.5, 1.5, 1e-320, 1e-45, 1e38, 1e308),
    *(math.inf, -math.inf, math.nan, True, False),
)
TEXTS = (
    *("", " ", "\0", "\n", "a\nb", "\r", "\t", "\x1b[2J\x1b[31m", "\x07", "\x9b31m", "\u202eabc\u202c"),
    *("\u2066x\u2069", "\u200f", "\u2028", "\u0085", "\ufeff", "\ud800", "e\u0301", "\U0001f600"),
    *("x" * 300, "x" * 20_000, "9" * 5_000, "-", "nan", "inf", "null", "true", "1e999", "{}", "[1, 2"),
    *("/etc/passwd", "../../secret", "~/x", "/dev/zero", "/dev/stdin", "/proc/self/environ", ".", "..", "/"),
    *("file:///etc/passwd", "http://127.0.0.1:9/x", "C:\\x", "\\\\host\\share", "zip://x::/etc/passwd"),
    *("hf-hub:org/name", "local-dir:/etc", "org/name", "hf://datasets/org/name/x", "org/name--module.Class"),
    *("resnet18", "resnet50.a1_in1k", "vit", "resnet", "timm_wrapper", "swin", "wrn_10_1", "test_vit"),
    *("%s%n%x", "${HOME}", "{{7*7}}", "{0.__class__}", "<script>x</script>", "__class__", "builtins.open"),
    *("__import__('os').system('touch ran')", "model.safetensors", "float16", "float8_e4m3fn", "cpu", "meta"),
)
KEYS = (
    *("auto_map", "trust_remote_code", "_attn_implementation", "attn_implementation", "quantization_config"),
    *("dtype", "torch_dtype", "architectures", "model_type", "architecture", "model_args", "backbone_config"),
    *("use_pretrained_backbone", "backbone", "url", "file", "hf_hub_id", "state_dict", "num_classes"),
    *("num_labels", "id2label", "label2id", "label_names", "pretrained_cfg", "img_size", "_name_or_path"),
    *("problem_type", "custom_load", "__class__", "", "x", "a.b", "\x1b[2J", "\u202e", "x" * 300, "0", "-1"),
)
RAW_JSON = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5_000, "1" * 400 + ".5", "1e-999", "-0"),
    *("[" * 60 + "]" * 60, "[" * 5_000 + "]" * 5_000, "[" * 200_000, '{"a":' * 900 + "1" + "}" * 900),
    *('{"a": 1, "a": 2}', '"\\ud800"', '"\\u0000"', "tru", "'x'", "/* x */ 1", "0x10", "+1", "", "1,"),
)
RAW_YAML = (
    *("!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system ''", "!mine 1", "!!int ''"),
    *("!!bool maybe", "!!timestamp x", "2024-13-45", "2024-01-01", "!!binary '====='", "!!set {a, b}"),
    *(
        "*nowhere",
        "&a [*a]",
        "&a {b: *a}",
        "{<<: 3}",
        "{<<: {a: 1}}",
        "? {a: b}",
        "{? {a: b} : c}",
        "!!omap [1]",
    ),
    *(
        "1_000",
        "0x1F",
        "0o17",
        "190:20:30",
        ".inf",
        "-.inf",
        ".nan",
        "yes",
        "~",
        "|\n  x",
        ">-\n  x",
        "%YAML",
    ),
    *(
        "[" * 60 + "]" * 60,
        "[" * 3_000,
        "9" * 5_000,
        "!!float x",
        "!!str 1",
        "!!null x",
        "\x00",
        "\t",
        "@",
        "`",
    ),
    *("!!pairs [a: 1]", '"\\x1b[2J"', '"\\u202e"', '"\\ud800"', "!!python/tuple [1]", "{a: 1, a: 2}", "- -"),
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


class Raw:
    """Stands for a fragment of a text within values."""

    def __init__(self, text: str) -> None:
        self.text = text


def odd_value(chance: random.Random, raw: tuple[str, ...] = ()) -> Any:
    """A value that a careless reader does not expect."""
    kind = chance.randrange(8)
    if kind < 3:
        return chance.choice(NUMBERS)
    if kind < 5:
        return chance.choice(TEXTS)
    if kind == 5 and raw:
        return Raw(chance.choice(raw))
    plain = [None, [], {}, [None], [[]], {"": None}, [1, "a", None], {"0": "a"}, {"height": 8, "width": 8}]
    return copy.deepcopy(chance.choice(plain))


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in nested values."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys if isinstance(one[key], dict | list)]
    return found


def mutated(tree: Any, chance: random.Random, raw: tuple[str, ...] = ()) -> Any:
    """A copy with one to three changes; now and then with none."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice((0, 1, 1, 1, 1, 2, 3))):
        where = places(tree)
        if not where:
            return odd_value(chance, raw)
        _change(*chance.choice(where), chance, raw)
    return odd_value(chance, raw) if chance.random() < 0.01 else tree


def _change(container: Any, key: Any, chance: random.Random, raw: tuple[str, ...]) -> None:
    value = container[key]
    match chance.randrange(9):
        case 0 if isinstance(container, dict):
            del container[key]
        case 1 if isinstance(container, dict):
            container[chance.choice(KEYS)] = odd_value(chance, raw)
        case 2 if isinstance(container, dict):
            container[chance.choice(KEYS)] = container.pop(key)
        case 3:
            container[key] = chance.choice(([value], [value] * 70, {"a": value}, str(value)))
        case 4 if isinstance(value, int | float) and not isinstance(value, bool):
            container[key] = chance.choice((-value, value + 1, value - 1, value * 1_000, value / 2))
        case 5 if isinstance(value, list):
            container[key] = chance.choice((value[:1], value * 2, value[::-1], [], value[:-1]))
        case _:
            container[key] = odd_value(chance, raw)


def json_bytes(tree: Any, chance: random.Random) -> bytes:
    """A JSON text of the values, with their raw fragments, whose form is wrong now and then."""
    fragments: list[str] = []
    text = json.dumps(_marked(tree, fragments), indent=chance.choice((None, 2)))
    for number, fragment in enumerate(fragments):
        text = text.replace(f'"RAW{number}RAW"', fragment, 1)
    return _spoiled(text, chance, 0.06)


def yaml_bytes(tree: Any, chance: random.Random, *, wrong: float = 0.2) -> bytes:
    """A YAML text of the values, with their raw fragments and a wrong form at the given share."""
    fragments: list[str] = []
    text = yaml.safe_dump(_marked(tree, fragments), sort_keys=False, default_flow_style=None)
    for number, fragment in enumerate(fragments):
        text = text.replace(f"RAW{number}RAW", fragment, 1)
    if chance.random() < wrong:
        lines = text.splitlines(keepends=True) or [""]
        extra = chance.choice(
            (BOMB, "x: &x [*x]\n", "<<: [1]\n", "---\n", "...\n", "\t\n", "%TAG ! x\n", "? \n")
        )
        place = chance.randrange(len(lines) + 1)
        text = "".join([*lines[:place], extra, *lines[place:]])
    return _spoiled(text, chance, 0.04)


def _marked(tree: Any, fragments: list[str]) -> Any:
    if isinstance(tree, Raw):
        fragments.append(tree.text)
        return f"RAW{len(fragments) - 1}RAW"
    if isinstance(tree, dict):
        return {key: _marked(value, fragments) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_marked(value, fragments) for value in tree]
    return tree


def _spoiled(text: str, chance: random.Random, share: float) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() >= share:
        return data
    ways = (
        lambda: data[: chance.randrange(len(data) + 1)],
        lambda: b"\xef\xbb\xbf" + data,
        lambda: text.encode("utf-16", "surrogatepass"),
        lambda: data + data,
        lambda: data.replace(b"a", b"\xff", 1),
        lambda: b"",
        lambda: mutated_bytes(data, chance),
    )
    return chance.choice(ways)()


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bytes with one to four changes: flipped, cut, copied, filled or set to special numbers."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(out) + 1)
        length = chance.choice((1, 2, 4, 8, 64))
        match chance.randrange(7):
            case 0 if place < len(out):
                out[place] ^= 1 << chance.randrange(8)
            case 1:
                del out[place : place + length]
            case 2:
                out[place:place] = bytes(out[place : place + length]) * chance.choice((1, 3, 50))
            case 3:
                out[place : place + length] = chance.randbytes(length)
            case 4:
                number = chance.choice((0, 0xFF, 0x7F, 0x80, 1))
                out[place : place + length] = bytes([number]) * length
            case 5:
                size = chance.choice((2, 4, 8))
                number = chance.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2**15))
                out[place : place + size] = (number % 2 ** (8 * size)).to_bytes(
                    size, chance.choice(("big", "little"))
                )
            case _ if chance.random() < 0.3:
                del out[place:]
    return bytes(out)
