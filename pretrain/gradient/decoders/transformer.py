"""The decoder of a masked autoencoder: a light transformer over all patches, visible and hidden."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HEAD = 32  # channels of one attention head


class TransformerDecoder(nn.Module):
    """Tokens ``[B n D]`` of the visible patches -> ``[B K side side]`` (He et al. 2022, MAE).

    One learned token stands in for every hidden patch; fixed sine-cosine embeddings encode the positions.
    """

    positions: Tensor

    def __init__(
        self, depth: int, grid: tuple[int, int], channels: int, side: int, *, width: int, blocks: int, masked: bool
    ) -> None:
        from timm.models.vision_transformer import Block  # takes seconds to import, which other decoders need not pay

        super().__init__()
        self.grid, self.channels, self.patch = grid, channels, side // grid[0]
        self.embed = nn.Linear(depth, width)
        # only if patches are masked: DDP refuses unused parameters
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02) if masked else None
        self.register_buffer("positions", sine_positions(grid, width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, width // HEAD, qkv_bias=True) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, channels * self.patch**2)

    def no_weight_decay(self) -> set[str]:
        return {"mask_token"}

    def forward(self, tokens: Tensor, visible: Tensor | None = None) -> Tensor:
        """``visible`` ``[B n]``: the patch index of each token; None if all patches are present, in order."""
        tokens = self.embed(tokens)
        if visible is not None:
            assert self.mask_token is not None, "built for whole images"
            everywhere = self.mask_token.to(tokens.dtype).expand(len(tokens), self.positions.shape[1], -1)
            place = visible[:, :, None].expand(-1, -1, tokens.shape[2])
            tokens = everywhere.scatter(1, place, tokens)
        patches: Tensor = self.last(self.norm(self.blocks(tokens + self.positions)))
        return self.unpatch(patches)

    def unpatch(self, patches: Tensor) -> Tensor:
        """``[B h*w K*p*p]`` -> ``[B K h*p w*p]``."""
        (height, width), size = self.grid, self.patch
        return (
            patches.view(-1, height, width, self.channels, size, size)
            .permute(0, 3, 1, 4, 2, 5)
            .reshape(-1, self.channels, height * size, width * size)
        )


def sine_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed embeddings ``[1 h*w width]``: a quarter each for sin and cos of the row, sin and cos of the column."""
    rate = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * rate for place in (rows, columns)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[None].float()
