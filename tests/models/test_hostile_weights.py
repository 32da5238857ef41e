"""Weights files that would take more memory than they have bytes, or that are no weights as they stand."""

from __future__ import annotations

import io
import json
import resource
import struct
import zipfile

import pytest
import torch
from checkpoints import BARE, TinyNet, edit
from safetensors.torch import load_file, save_file
from torch import nn

from abd_hub.core.errors import InputError
from abd_hub.models.classifier import load_classifier, load_state_dict_into


def refused(file, words, **options):
    with pytest.raises(InputError, match=words) as caught:
        load_classifier(str(file), **{**BARE, "allow_pickle": True, "num_classes": 3} | options)
    assert "\n" not in str(caught.value)


def repacked(content, compression):
    """The same archive of torch with its members compressed."""
    whole, packed = io.BytesIO(), io.BytesIO()
    torch.save(content, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w", compression) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return packed.getvalue()


def test_an_archive_that_unpacks_to_a_thousand_times_its_size(tmp_path):
    (tmp_path / "w.pth").write_bytes(repacked({"x": torch.zeros(1 << 26)}, zipfile.ZIP_DEFLATED))
    assert (tmp_path / "w.pth").stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "w.pth", r"w\.pth has 0\.\d MB and unpacks to 268 MB")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_a_compressed_archive_of_weights_is_read(tmp_path):
    net = TinyNet()
    (tmp_path / "w.pth").write_bytes(repacked(net.state_dict(), zipfile.ZIP_DEFLATED))
    read = TinyNet()
    load_state_dict_into(read, tmp_path / "w.pth", allow_pickle=True)
    assert torch.equal(read.head.weight, net.head.weight)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(1).expand(10**6, 10**6), "unpacks to 4,000,000 MB"),
        (torch.zeros(3, 3).to_sparse(), "is sparse, quantized"),
        (torch.zeros(3, device="meta"), "is sparse, quantized"),
    ],
)
def test_tensors_that_are_no_plain_numbers(tmp_path, tensor, words):
    torch.save({"fc.bias": tensor}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", words)


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64, torch.float8_e4m3fn])
def test_numbers_that_are_no_weights(timm_folder, kind):
    tensors = load_file(timm_folder / "model.safetensors")
    tensors["fc.bias"] = tensors["fc.bias"].to(kind)
    save_file(tensors, timm_folder / "model.safetensors")
    refused(timm_folder, f"fc.bias in .* is stored as {str(kind)[6:]}; convert it", architecture=None)
    with pytest.raises(InputError, match="stored as"):
        load_state_dict_into(nn.ModuleDict({"fc": nn.Linear(64, 3)}), timm_folder / "model.safetensors")


def test_a_key_that_is_endless_as_a_text(tmp_path):
    key = ("x",)
    for _ in range(16):
        key = (key, key)
    torch.save({key: torch.zeros(1)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "tuple in w.pth are not tensors")


def test_a_list_of_a_million_tensors(timm_folder):
    header = json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)}
    )
    content = struct.pack("<Q", len(header)) + header.encode()
    (timm_folder / "model.safetensors").write_bytes(content)
    refused(timm_folder, r"model\.safetensors lists its tensors in 1\d MB", architecture=None)


@pytest.mark.parametrize(
    ("architecture", "args", "words"),
    [
        ("vit_tiny_patch16_224", {"img_size": 40_000, "depth": 1}, "img_size is 40,000"),
        ("vit_tiny_patch16_224", {"img_size": [1, 10_000]}, "img_size is 10,000; use at most 4096 pixels"),
        ("vit_tiny_patch16_224", {"embed_dim": 10**9}, "embed_dim is 1,000,000,000"),
        ("vit_tiny_patch16_224", {"depth": 5000}, "depth makes 5,000 blocks"),
        ("resnet18", {"layers": [400, 400, 400, 400]}, "layers makes 1,600 blocks"),
        ("vit_tiny_patch16_224", {"embed_dim": 12_000, "num_heads": 12}, "far more numbers than its weights"),
        ("vit_tiny_patch16_224", {"img_size": 4096, "patch_size": 1}, "far more numbers than its weights"),
    ],
)
def test_a_configuration_that_takes_all_memory(timm_folder, architecture, args, words):
    edit(timm_folder / "config.json", architecture=architecture, model_args=args)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(timm_folder, words, architecture=None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


def test_finite_weights_with_answers_that_are_not(timm_folder):
    tensors = load_file(timm_folder / "model.safetensors")
    huge = {name: value * 1e30 if value.ndim == 4 else value for name, value in tensors.items()}
    save_file(huge, timm_folder / "model.safetensors")
    edit(timm_folder / "config.json")
    refused(timm_folder, "made_by_timm gives NaN or infinity", architecture=None)
