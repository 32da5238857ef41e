"""CLP: prunes the channels that can rise most steeply (Zheng et al., ECCV 2022, arXiv 2208.03111).

A backdoor needs channels that a small change of the image moves far. For a convolution with a BatchNorm after
it, the paper bounds the Lipschitz constant of channel c, from the layer before:

    bound_c = sigma_max(W_c) * |gamma_c| / sqrt(var_c + eps)

W_c is the kernel of the channel as a matrix, (in / groups, height * width), as in the authors' code, which
leaves out eps. Channels above ``mean + u * std`` of their layer get gamma and beta 0.

In pre-activation networks a BatchNorm precedes its convolution, which the paper does not treat. Here W_c is
then the part of the kernel that reads channel c, (out / groups, height * width). Where several convolutions
read it, the largest bound counts.

The order of modules does not show which BatchNorm meets which convolution. The graph of one image shows it.
"""

from __future__ import annotations

import copy
import re
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

from abd_hub.core.errors import InputError
from abd_hub.core.inspections import InspectionReport
from abd_hub.core.purifications import Purification, PurificationReport
from abd_hub.core.registry import register
from abd_hub.core.seeding import generator
from abd_hub.core.settings import Positive
from abd_hub.inspection.confident import answers, as_pixels
from abd_hub.learning.modes import in_eval_mode

MOST_IMAGES = 1_000
"""The agreement is measured on at most so many images."""
CHANNELWISE = re.compile(
    "(AvgPool2D|Celu|Clamp|ClampMax|ClampMin|Clone|ConstantPadNd|Elu|Gelu|Hardsigmoid|Hardswish|Hardtanh"
    "|LeakyRelu|LogSigmoid|MaxPool2DWithIndices|Mish|PreluKernel|ReflectionPad2D|Relu|ReplicationPad2D|Sigmoid|Silu"
    "|Softplus|Tanh|Threshold|ToCopy)Backward"
)
"""These operations, by autograd's names, may stand between a BatchNorm and the convolution that it precedes.

Each treats a channel alone. Dropout in eval mode leaves no operation."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Holds a BatchNorm and the convolutions that it meets."""

    name: str
    """Name inside the classifier's network."""
    norm: _BatchNorm
    convolutions: tuple[nn.Conv2d, ...]
    """It follows one of them, or precedes all of them; empty where it meets none."""
    follows: bool


@register("purifications", "channel_lipschitz_pruning")
@dataclass(frozen=True, kw_only=True)
class ChannelLipschitzPruning(Purification, place="channel_lipschitz_pruning"):
    """Prunes channels whose Lipschitz bound lies far above their layer's mean, without a search."""

    citation = r"""@inproceedings{zheng2022clp,
  title={Data-free Backdoor Removal based on Channel {Lipschitzness}},
  author={Zheng, Runkai and Tang, Rongjun and Li, Jianze and Liu, Li},
  booktitle={European Conference on Computer Vision},
  pages={175--191},
  year={2022}
}"""
    needs_suspects = False

    deviations: Positive = 3.0
    """A channel is pruned above its layer's mean plus so many standard deviations, the paper's u.

    With 3, no layer of 10 channels or fewer loses one.
    """

    def purify(
        self, teacher: Any, images: Tensor, report: InspectionReport | None = None, seed: int = 0
    ) -> tuple[Any, PurificationReport]:
        """Prunes a copy; of ``images`` one shows the layers, and some measure the agreement.

        Raises:
            InputError: there is no image, or the teacher's logits are not finite.
        """
        began = time.perf_counter()
        if not len(images):
            raise InputError("images: there is none; give some hundreds of images, without labels")
        purified = copy.deepcopy(teacher).freeze()
        layers = find_layers(purified, images[:1])

        met = [layer for layer in layers if layer.convolutions]
        pruned = {layer.name: self._prune(layer) for layer in met}
        pruned = {name: channels for name, channels in pruned.items() if channels}
        agreement = _agreement(teacher, purified, images, seed) if pruned else 1.0
        return purified, PurificationReport(
            name="channel_lipschitz_pruning",
            changed=bool(pruned),
            detail=_detail(layers, met, pruned),
            agreement=agreement,
            seconds=time.perf_counter() - began,
            facts={
                "layers": len(met),
                "channels": _channels(met),
                "following": sum(layer.follows for layer in met),
                "preceding": sum(not layer.follows for layer in met),
                "left": len(layers) - len(met),
                "pruned": pruned,
            },
        )

    @torch.no_grad()
    def _prune(self, layer: Layer) -> list[int]:
        """Zeroes gamma and beta of the channels above the limit, and returns these channels."""
        above = steep_channels(channel_bounds(layer), self.deviations)
        chosen = above.to(layer.norm.weight.device)
        layer.norm.weight[chosen] = 0
        layer.norm.bias[chosen] = 0
        return [int(channel) for channel in above]


def channel_bounds(layer: Layer) -> Tensor:
    """Returns the bound of each channel, (channels,) float64 on the CPU; some convolution must be there."""
    norm = layer.norm
    assert norm.running_var is not None  # find_layers leaves out the others
    # Some devices have no float64.
    gamma, variance = norm.weight.detach().cpu().double(), norm.running_var.cpu().double()
    slopes = gamma.abs() / (variance + norm.eps).sqrt()
    kernels = (_kernels(convolution, layer.follows) for convolution in layer.convolutions)
    return slopes * torch.stack([torch.linalg.matrix_norm(each, ord=2) for each in kernels]).amax(dim=0)


def _kernels(convolution: nn.Conv2d, follows: bool) -> Tensor:
    """Returns the kernels that make each output channel or read each input channel, (channels, m, pixels)."""
    weight = convolution.weight.detach().cpu().double().flatten(2)
    if follows:
        return weight
    outputs, inputs, pixels = weight.shape
    grouped = weight.view(convolution.groups, outputs // convolution.groups, inputs, pixels)
    return grouped.transpose(1, 2).flatten(0, 1)


def steep_channels(bounds: Tensor, deviations: float) -> Tensor:
    """Returns the numbers of the channels above the mean plus so many standard deviations of the sample."""
    if len(bounds) < 2:
        return bounds.new_empty(0, dtype=torch.int64)
    return (bounds > bounds.mean() + deviations * bounds.std()).nonzero().flatten()


def find_layers(classifier: Any, images: Tensor) -> list[Layer]:
    """Finds every BatchNorm of a frozen classifier with its convolutions, from the graph of a forward pass.

    A BatchNorm follows a convolution that directly gives its input. Otherwise it precedes those that read its
    output, perhaps through operations of ``CHANNELWISE``. One without parameters or running statistics gets
    no convolution.

    Raises:
        InputError: the logits are not finite.
    """
    calls = _calls(classifier, images)
    made = {after: module for module, _, after in calls if isinstance(module, nn.Conv2d) and after}
    normed = {after: module for module, _, after in calls if isinstance(module, _BatchNorm) and after}

    before: dict[nn.Module, list[nn.Conv2d]] = defaultdict(list)
    behind: dict[nn.Module, list[nn.Conv2d]] = defaultdict(list)
    for module, source, _ in calls:
        if isinstance(module, nn.Conv2d):
            if norm := _norm_before(source, normed):
                behind[norm].append(module)
        elif source in made:
            before[module].append(made[source])

    layers = []
    for name, module in classifier.model.named_modules():
        if isinstance(module, _BatchNorm):
            usable = module.affine and module.running_var is not None
            found = before[module] or behind[module] if usable else []
            layers.append(Layer(name, module, tuple(dict.fromkeys(found)), bool(found and before[module])))
    return layers


def _calls(classifier: Any, images: Tensor) -> list[tuple[nn.Module, Node | None, Node | None]]:
    """Returns each call of a convolution or BatchNorm, with the nodes that made its input and its output."""
    calls: list[tuple[nn.Module, Node | None, Node | None]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, inputs[0].grad_fn, output.grad_fn))

    kinds = (nn.Conv2d, _BatchNorm)
    hooks = [each.register_forward_hook(note) for each in classifier.modules() if isinstance(each, kinds)]
    try:
        # The weights are frozen, so the gradient of the pixels alone makes a graph.
        with torch.enable_grad():
            logits = classifier(as_pixels(images).detach().clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    _check_finite(logits)
    return calls


def _norm_before(node: Node | None, normed: Mapping[Node, _BatchNorm]) -> _BatchNorm | None:
    """Returns the BatchNorm whose output becomes this node's by channelwise operations alone."""
    while node is not None and node not in normed:
        sources = [source for source, _ in node.next_functions if source is not None]
        if len(sources) != 1 or not CHANNELWISE.match(node.name()):
            return None
        node = sources[0]
    return None if node is None else normed[node]


def _agreement(teacher: Any, purified: Any, images: Tensor, seed: int) -> float:
    """Returns the share of the images, or of a draw of them, to which both give the same class."""
    chance = generator(seed, "purification", "channel_lipschitz_pruning", "agreement")
    rows = torch.randperm(len(images), generator=chance)[:MOST_IMAGES]
    shown = images[rows.to(images.device)]
    with in_eval_mode(teacher):
        logits = answers(teacher, shown)
    _check_finite(logits)
    same = logits.argmax(dim=1) == answers(purified, shown).argmax(dim=1)
    return float(same.double().mean())


def _check_finite(logits: Tensor) -> None:
    if not logits.isfinite().all():
        raise InputError("teacher: gives logits that are not finite; check its weights and normalization")


def _channels(layers: Collection[Layer]) -> int:
    return sum(layer.norm.num_features for layer in layers)


def _detail(layers: Collection[Layer], met: Collection[Layer], pruned: Mapping[str, list[int]]) -> str:
    if not layers:
        return "the classifier has no BatchNorm layer; channel Lipschitz pruning changes nothing"
    if not met:
        return "no BatchNorm layer meets a convolution; channel Lipschitz pruning changes nothing"
    zeroed = sum(map(len, pruned.values()))
    return f"zeroed {zeroed} of {_channels(met)} channels in {len(pruned)} of {len(met)} layers"
