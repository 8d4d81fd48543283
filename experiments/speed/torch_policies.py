"""Three policies over tokens in PyTorch, which start uniform. Imports torch: only `torch_peer` imports this.

Each has `forward(previous, tokens) -> log-probabilities of tokens` for teacher forcing, [batch, position], and, for sampling,
`begin(batch) -> carry` and `step(previous, position, carry) -> (cumulative probabilities, carry)`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.speed.work import HEADS, LAYERS, LENGTH, MLP, VOCABULARY, WIDTH


def log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    """The log-probability of each token."""
    return F.log_softmax(logits, -1).gather(-1, tokens[..., None]).squeeze(-1)


def initialise(module: nn.Module) -> None:
    """Start as rlkl's networks do: weights of variance 1/fan-in, no biases, a head of zeros."""
    for name, weight in module.named_parameters():
        if name.startswith("head") or "bias" in name:
            nn.init.zeros_(weight)
        elif weight.dim() == 2 and not name.startswith(("embedding", "position")):
            residual = (2 * LAYERS) ** -0.5 if name.endswith(("out.weight", "mlp.2.weight")) else 1.0
            nn.init.normal_(weight, std=residual * weight.shape[1] ** -0.5)


class Tabular(nn.Module):
    """A bigram policy: a row of logits for each token before."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(VOCABULARY + 1, VOCABULARY))

    def forward(self, previous: Tensor, tokens: Tensor) -> Tensor:
        return F.log_softmax(self.logits, -1)[previous, tokens]

    def begin(self, batch: int) -> Tensor:
        return self.logits.softmax(-1).cumsum(-1)

    def step(self, previous: Tensor, position: int, carry: Tensor) -> tuple[Tensor, Tensor]:
        return carry[previous], carry


class Gru(nn.Module):
    """Embedding, one GRU layer, linear head; a cell with the layer's own weights steps while sampling."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY + 1, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        initialise(self)

    def forward(self, previous: Tensor, tokens: Tensor) -> Tensor:
        return log_prob(self.head(self.gru(self.embedding(previous))[0]), tokens)

    def begin(self, batch: int) -> Tensor:
        return torch.zeros(batch, WIDTH)

    def step(self, previous: Tensor, position: int, carry: Tensor) -> tuple[Tensor, Tensor]:
        carry = torch.gru_cell(self.embedding(previous), carry, *self.gru.all_weights[0])
        return self.head(carry).softmax(-1).cumsum(-1), carry


class Block(nn.Module):
    """A pre-norm decoder block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, MLP), nn.GELU(), nn.Linear(MLP, WIDTH))

    def forward(self, x: Tensor, position: int = 0, cache: Tensor | None = None) -> Tensor:
        """All positions at once, causally; with a cache [key or value, batch, head, position, depth], only `position`."""
        n, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, position], cache[1, :, :, position] = k[:, :, 0], v[:, :, 0]
            k, v = cache[:, :, :, : position + 1]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, WIDTH))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A decoder with learned positions, and a key-value cache while sampling."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(VOCABULARY + 1, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)
        initialise(self)

    def forward(self, previous: Tensor, tokens: Tensor) -> Tensor:
        x = self.embedding(previous) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return log_prob(self.head(self.norm(x)), tokens)

    def begin(self, batch: int) -> Tensor:
        return torch.empty(LAYERS, 2, batch, HEADS, LENGTH, WIDTH // HEADS)

    def step(self, previous: Tensor, position: int, carry: Tensor) -> tuple[Tensor, Tensor]:
        x = (self.embedding(previous) + self.position.weight[position])[:, None]
        for block, cache in zip(self.blocks, carry, strict=True):
            x = block(x, position, cache)
        return self.head(self.norm(x[:, 0])).softmax(-1).cumsum(-1), carry


POLICIES: dict[str, Any] = {"tabular": Tabular, "gru": Gru, "transformer": Transformer}
