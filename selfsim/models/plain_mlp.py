"""The paper's plain MLP: an input layer and residual MLP blocks."""

from __future__ import annotations

from torch import Tensor, nn


class MlpBlock(nn.Module):
    """Residual block ``x + W2 gelu(W1 norm(x))``, with `expansion` times the width inside."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.activation = nn.GELU()
        self.contract = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(self.activation(self.expand(self.norm(x))))


class PlainMlp(nn.Module):
    """Multi-layer perceptron on flattened images (arXiv 2507.17785: 512 wide, 5 residual blocks of expansion 4).

    Parameters
    ----------
    pixels : int
        Height and width of the images.
    in_chans, num_classes : int
        Number of channels of the images, and of logits.
    width, depth, expansion : int
        Width and number of the residual blocks, and the ratio of their inner width to `width`.

    Examples
    --------
    >>> import torch
    >>> PlainMlp(pixels=8, in_chans=1, num_classes=10, width=32, depth=2)(torch.zeros(4, 1, 8, 8)).shape
    torch.Size([4, 10])
    """

    def __init__(
        self, *, pixels: int, in_chans: int, num_classes: int, width: int = 512, depth: int = 5, expansion: int = 4
    ) -> None:
        super().__init__()
        self.image_shape = (in_chans, pixels, pixels)
        # In the paper, the input layer is the first of the layers that are measured.
        stem = nn.Sequential(nn.Flatten(), nn.Linear(in_chans * pixels**2, width), nn.GELU())
        self.blocks = nn.ModuleList([_Stem(stem), *(MlpBlock(width, expansion) for _ in range(depth))])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.image_shape:
            raise ValueError(
                f"images: got shape {tuple(x.shape)}, need (N, channels, height, width) with {self.image_shape}"
            )
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class _Stem(nn.Module):
    """The input layer, as one block."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
