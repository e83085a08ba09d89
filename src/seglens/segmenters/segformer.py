"""transformers' SegFormer with a decoder and a sequence reduction that compute the same function in less time.

The decoder projects the four stages to one width, resizes them to the first stage's grid, joins them and mixes them by
a 1x1 convolution. Projection, resizing and mixing are linear and act on different axes, so they commute: here each
stage is projected and mixed by one small matrix at its own resolution, resized, and summed. Parameters, names and
values (but for rounding) are those of transformers; for B0 the decoder's products shrink about thirty times.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from seglens.segmenters.network_node import INPUT, NetworkNode


@contextmanager
def without_broken_torchvision() -> Iterator[None]:
    """Hide a torchvision that does not import, as it is when it was built for another torch.

    transformers imports torchvision wherever it is installed, though SegFormer does not need it, and fails with it.
    """
    broken = False
    if "torchvision" not in sys.modules:
        try:
            import_module("torchvision")
        except ModuleNotFoundError:
            pass
        except Exception:  # a mismatch shows as RuntimeError, OSError, AttributeError, ...
            broken = True
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            sys.modules["torchvision"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if broken:
            del sys.modules["torchvision"]


with without_broken_torchvision():
    from transformers.models.segformer.configuration_segformer import SegformerConfig
    from transformers.models.segformer.modeling_segformer import (
        SegformerDecodeHead,
        SegformerForSemanticSegmentation,
        SegformerMLP,
        SegformerSequenceReduction,
    )


class PatchedReduction(SegformerSequenceReduction):
    """Sequence reduction as one product: its convolution's stride is its kernel, so that patches do not overlap.

    On a CPU this takes half the time of the convolution.
    """

    def forward(self, hidden_states: Tensor, height: int, width: int) -> Tensor:
        """Tokens ``[B h*w d]`` to ``[B (h // r)*(w // r) d]``."""
        convolution = self.sequence_reduction
        side = convolution.stride[0]
        grid = rearrange(hidden_states, "B (h w) d -> B h w d", h=height)
        grid = grid[:, : height // side * side, : width // side * side]
        patches = rearrange(grid, "B (h i) (w j) d -> B (h w) (i j d)", i=side, j=side)
        weight = rearrange(convolution.weight, "o d i j -> o (i j d)")
        reduced: Tensor = self.layer_norm(functional.linear(patches, weight, convolution.bias))
        return reduced


class FoldedProjection(SegformerMLP):
    """One stage of the decoder. A module, so that stages in front of an edited one are replayed and not computed."""

    def forward(self, stage: Tensor, block: Tensor, height: int) -> Tensor:
        """Stage ``[B d_s h w]``, projected and mixed by ``block``, with ``height`` rows: ``[(B height) w d]``."""
        n, _, rows, columns = stage.shape
        part = functional.linear(rearrange(stage, "B d h w -> B h w d"), block @ self.proj.weight)
        if rows != height:
            part = torch.matmul(_weights(rows, height, part), rearrange(part, "B h w d -> B h (w d)"))
        return part.reshape(n * height, columns, -1)


class FoldedDecodeHead(SegformerDecodeHead):
    """SegFormer's all-MLP decoder (arXiv 2105.15203, equation 4), projection and mixing folded into one product.

    Bilinear resizing (``align_corners=False``) is a product over rows, here in each projection, and one over columns,
    here one for all stages, which also adds them up. On a CPU the gradient of such products takes a fraction of the
    time of that of ``torch.nn.functional.interpolate``.
    """

    def forward(self, encoder_hidden_states: Sequence[Tensor]) -> Tensor:
        """Stages ``[B d_s h_s w_s]``, finest first, to logits ``[B K h_1 w_1]``."""
        n, _, height, width = encoder_hidden_states[0].shape
        # linear_fuse sees the stages in reversed order
        blocks = self.linear_fuse.weight.flatten(1).chunk(len(self.linear_projections), dim=1)[::-1]
        finest, *parts = [
            projection(stage, block, height)
            for stage, projection, block in zip(encoder_hidden_states, self.linear_projections, blocks, strict=True)
        ]
        across = [_weights(part.shape[1], width, part) for part in parts]
        # resizing leaves a constant as it is: the sum of the biases is one more column, which all columns take over
        bias = sum(block @ each.proj.bias for block, each in zip(blocks, self.linear_projections, strict=True))
        parts.append(bias.to(finest.dtype).expand(len(finest), 1, -1))
        across.append(finest.new_ones(width, 1))
        mixed = torch.baddbmm(finest, torch.cat(across, 1).expand(len(finest), -1, -1), torch.cat(parts, 1))
        hidden = self.activation(self.batch_norm(rearrange(mixed, "(B H) W d -> B d H W", B=n)))
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits


def _weights(source: int, target: int, like: Tensor) -> Tensor:
    """Matrix ``[target source]`` of a linear resizing along one axis."""
    identity = torch.eye(source, device=like.device)[None]
    return functional.interpolate(identity, size=target, mode="linear", align_corners=False)[0].T.to(like.dtype)


def segformer(n_sequences: int, n_classes: int, settings: Mapping[str, Any]) -> nn.Module:
    """A SegFormer with random weights of the global generator.

    Args:
        n_sequences: input channels.
        n_classes: output channels.
        settings: of `seglens.segmenters.architectures.Architecture.describe`.
    """
    config = SegformerConfig(num_channels=n_sequences, **settings)
    config.num_labels = n_classes
    # keys and values are few after sequence reduction: plain products beat torch's fused attention, above all backwards
    config._attn_implementation = "eager"
    network: nn.Module = SegformerForSemanticSegmentation(config)
    head = FoldedDecodeHead.__new__(FoldedDecodeHead)
    # the same module under another class, not initialised again: the weights are those of transformers for the seed
    head.__dict__ = network.get_submodule("decode_head").__dict__
    # whole channels are dropped, as in the paper's own code (mmsegmentation); transformers drops single values
    head.dropout = nn.Dropout2d(config.classifier_dropout_prob)
    for projection in head.linear_projections:
        projection.__class__ = FoldedProjection
    for module in network.modules():
        if isinstance(module, SegformerSequenceReduction):
            module.__class__ = PatchedReduction
    network.decode_head = head
    return network


def segformer_nodes(network: nn.Module) -> tuple[NetworkNode, ...]:
    """Parts of a network of `segformer`: embedding, attention and MLP of each layer, norm of each stage, and decoder.

    Inside a stage all parts are added up, and each reads the sum of those before it. The norm at a stage's end is what
    the next stage and the decoder read.
    """
    nodes: list[NetworkNode] = []
    before = INPUT
    stages: Any = network.get_submodule("segformer.stages")
    for number, stage in enumerate(stages, 1):
        name = f"stage{number}"
        stream: tuple[str, ...] = (f"{name}.embed",)
        nodes.append(NetworkNode(stream[0], name, ((before,),), partial(_embedded, stage.patch_embeddings)))
        for layer, block in enumerate(stage.blocks, 1):
            for part, run in (("attention", _attended), ("mlp", _mixed)):
                node = NetworkNode(f"{name}.{part}{layer}", name, (stream,), partial(run, block))
                nodes.append(node)
                stream = (*stream, node.name)
        nodes.append(NetworkNode(name, name, (stream,), partial(_normed, stage.layer_norm)))
        before = name
    ends = tuple((f"stage{number}",) for number in range(1, len(stages) + 1))
    nodes.append(NetworkNode("head", "head", ends, partial(_decoded, network.get_submodule("decode_head"))))
    return tuple(nodes)


def _embedded(embedding: nn.Module, stage: Tensor) -> Tensor:
    tokens, height, _ = embedding(stage)
    return _grid(tokens, height)


def _attended(block: Any, stream: Tensor) -> Tensor:
    _, _, height, width = stream.shape
    attended, _ = block.attention(block.layernorm_before(_tokens(stream)), height, width)
    return _grid(block.drop_path(block.hidden_dropout(attended)), height)


def _mixed(block: Any, stream: Tensor) -> Tensor:
    _, _, height, width = stream.shape
    return _grid(block.drop_path(block.mlp(block.layernorm_after(_tokens(stream)), height, width)), height)


def _normed(norm: nn.Module, stream: Tensor) -> Tensor:
    return _grid(norm(_tokens(stream)), stream.shape[2]).contiguous()


def _decoded(head: nn.Module, *stages: Tensor) -> Tensor:
    logits: Tensor = head(stages)
    return logits


def _tokens(grid: Tensor) -> Tensor:
    return rearrange(grid, "B d h w -> B (h w) d")


def _grid(tokens: Tensor, height: int) -> Tensor:
    return rearrange(tokens, "B (h w) d -> B d h w", h=height)
