"""The same networks, losses and training step in PyTorch, for comparison with ours.

Tensors are `[B, C, H, W]` in the memory format channels_last. There are two differences: PyTorch's running
variances are unbiased, and the PyTorch step does not compute the usage of the memories, which ours logs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daad_jax.config import Config, LossConfig, ModelConfig
from daad_jax.models.discriminator import LEAK, SMALLEST_MAP
from daad_jax.models.memory import EPSILON, Division, resolve
from daad_jax.models.norm import MOMENTUM

Tree = Mapping[str, Any]


class BlockMemory(nn.Module):
    def __init__(self, items: int, division: Division, size: tuple[int, int, int], config: ModelConfig):
        super().__init__()
        rows, columns, depth = resolve(division, size)
        self.blocks = (rows, size[0] // rows, columns, size[1] // columns, depth, size[2] // depth)
        length = self.blocks[1] * self.blocks[3] * self.blocks[5]
        self.items = nn.Parameter(torch.randn(items, length))
        self.temperature, self.shrink = config.temperature, config.shrink

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self._read(features.float())

    def _read(self, features: Tensor) -> Tensor:
        rows, height, columns, width, depth, channels = self.blocks
        cut = features.permute(0, 2, 3, 1).reshape(-1, *self.blocks).permute(0, 1, 3, 5, 2, 4, 6)
        queries = cut.reshape(-1, self.items.shape[1])
        scale = torch.rsqrt(queries.square().sum(-1, keepdim=True).clamp_min(EPSILON))
        cosine = scale * (queries @ F.normalize(self.items, eps=EPSILON**0.5).T)
        weights = torch.softmax(cosine / self.temperature, -1)
        if self.shrink > 0:
            above = F.relu(weights - self.shrink)
            weights = above * weights / ((weights - self.shrink).abs() + EPSILON)
            weights = weights / weights.sum(-1, keepdim=True).clamp_min(EPSILON)
        read = (weights @ self.items).reshape(-1, rows, columns, depth, height, width, channels)
        whole = read.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, *(features.shape[i] for i in (2, 3, 1)))
        return whole.permute(0, 3, 1, 2)


class Generator(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        model, data = config.model, config.data
        self.levels = levels = model.levels
        widths = [min(model.base_width * 2**level, model.max_width) for level in range(levels + 1)]
        self.stem = _unit(nn.Conv2d(data.channels, widths[0], 3, padding=1, bias=False))
        self.down, self.up, self.memory = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.skips = [level > 0 and model.skips[levels - level - 1] for level in range(levels)]
        incoming = widths[levels]
        for level in range(1, levels + 1):
            conv = nn.Conv2d(widths[level - 1], widths[level], 4, 2, 1, bias=False)
            self.down[str(level)] = _unit(conv)
        for level in reversed(range(levels)):
            conv_up = nn.ConvTranspose2d(incoming, widths[level], 4, 2, 1, bias=False)
            self.up[str(level)] = _unit(conv_up)
            incoming = widths[level] * (2 if self.skips[level] else 1)
        for level in range(1, levels + 1):
            scale = levels - level + 1
            if model.memory_items[scale - 1] and (level == levels or self.skips[level]):
                size = (data.height >> level, data.width >> level, widths[level])
                items, division = model.memory_items[scale - 1], model.division[scale - 1]
                self.memory[str(level)] = BlockMemory(items, division, size, model)
        self.output = nn.Conv2d(widths[0], data.channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = [self.stem(images)]
        for down in self.down.values():
            features.append(down(features[-1]))
        x = self._remember(self.levels, features[-1])
        for level in reversed(range(self.levels)):
            x = self.up[str(level)](x)
            if self.skips[level]:
                x = torch.cat([x, self._remember(level, features[level])], 1)
        return torch.sigmoid(self.output(x).float())

    def _remember(self, level: int, features: Tensor) -> Tensor:
        return self.memory[str(level)](features) if str(level) in self.memory else features


class Discriminator(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        model, size, incoming = config.model, (config.data.height, config.data.width), config.data.channels
        self.down = nn.ModuleList()
        while not len(self.down) or min(size) >= 2 * SMALLEST_MAP:
            layer = len(self.down)
            width = min(model.discriminator_width * 2**layer, model.max_width)
            parts: list[nn.Module] = [nn.Conv2d(incoming, width, 4, 2, 1, bias=layer == 0)]
            if layer:
                parts.append(nn.BatchNorm2d(width, momentum=1 - MOMENTUM))
            self.down.append(nn.Sequential(*parts, nn.LeakyReLU(LEAK)))
            incoming, size = width, (size[0] // 2, size[1] // 2)
        self.classifier = nn.Linear(size[0] * size[1] * incoming, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B]` and f_D."""
        x = images
        for down in self.down:
            x = down(x)
        return self.classifier(x.permute(0, 2, 3, 1).flatten(1))[:, 0].float(), x.float()


def _unit(conv: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels, momentum=1 - MOMENTUM), nn.ReLU())  # type: ignore[arg-type]


class Twin:
    """Both networks with their optimizers. `step` and `score` take uint8 `[B, H, W, C]`, as ours do."""

    def __init__(self, config: Config, compiled: bool = False, device: str = "cpu"):
        self._loss, self._device = config.loss, device
        self._bfloat16 = config.train.precision == "bfloat16"
        self.generator = Generator(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator = (
            Discriminator(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            if config.uses_discriminator
            else None
        )
        self._networks = [n for n in (self.generator, self.discriminator) if n is not None]
        train = config.train
        self._optimizers = [
            torch.optim.Adam(n.parameters(), train.learning_rate, (train.beta1, train.beta2), fused=True)
            for n in self._networks
        ]
        # A compiled forward pass is differentiated twice, so the first time may not reuse its buffers.
        if compiled:
            torch._functorch.config.donated_buffer = False  # type: ignore[attr-defined]
        self._generate: Callable[..., Any] = torch.compile(self.generator) if compiled else self.generator
        self._judge: Callable[..., Any] = (
            torch.compile(self.discriminator) if compiled and self.discriminator else self.discriminator  # type: ignore[assignment]
        )

    def load(self, generator: Tree, discriminator: Tree | None) -> None:
        """Copies the variables ("params" and "batch_stats") of our networks."""
        for network, variables in zip(self._networks, (generator, discriminator)):
            assert variables is not None
            network.load_state_dict(to_torch(variables, network), strict=False)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Runs one training step and returns the losses under the names of our metrics."""
        for network in self._networks:
            network.train()
        images = to_unit(batch)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bfloat16):
            losses = self._losses(images)
        total = self._loss.reconstruction * losses["reconstruction"]
        if self.discriminator is not None:
            total = total + self._loss.adversarial * losses["adversarial"]
            total = total + self._loss.alignment * losses["alignment"]
            parameters = list(self.discriminator.parameters())
            losses["discriminator"].backward(inputs=parameters, retain_graph=True)
        total.backward(inputs=list(self.generator.parameters()))
        for optimizer in self._optimizers:
            optimizer.step()
        return {name: value.detach() for name, value in (losses | {"loss": total}).items()}

    def _losses(self, images: Tensor) -> dict[str, Tensor]:
        fake = self._generate(images)
        losses = {"reconstruction": distance(fake, images, self._loss)}
        if self.discriminator is None:
            return losses
        real_logits, real = self._judge(images)
        fake_logits, features = self._judge(fake)
        losses["discriminator"] = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        minimax = self._loss.generator == "minimax"
        losses["adversarial"] = (
            -F.softplus(fake_logits).mean() if minimax else F.softplus(-fake_logits).mean()
        )
        losses["alignment"] = distance(features, real, self._loss)
        return losses

    def zero_grad(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    @torch.inference_mode()
    def score(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns R and L, `[B]` each, and the reconstructions `[B, C, H, W]`."""
        for network in self._networks:
            network.eval()
        images = to_unit(batch)
        fake = self._generate(images)
        r = (images - fake).flatten(1).norm(dim=1)
        if self.discriminator is None:
            return r, torch.zeros_like(r), fake
        real_features, fake_features = self._judge(images)[1], self._judge(fake)[1]
        return r, (real_features - fake_features).flatten(1).norm(dim=1), fake


def to_unit(batch: Tensor) -> Tensor:
    return batch.permute(0, 3, 1, 2).float() / 255


def distance(a: Tensor, b: Tensor, loss: LossConfig) -> Tensor:
    if loss.distance == "l2":
        return (a - b).flatten(1).square().sum(1).clamp_min(EPSILON).sqrt().mean()
    return F.mse_loss(a, b)


def to_torch(variables: Tree, network: nn.Module) -> dict[str, Tensor]:
    """Converts our variables, or a tree shaped like them, to the names and layouts of `network`."""
    modules = dict(network.named_modules())
    tensors: dict[str, Tensor] = {}
    for collection in variables.values():
        for name, leaves in collection.items():
            for leaf, value in leaves.items():
                module = _module_name(name, network)
                array = np.asarray(value)
                if leaf == "kernel" and isinstance(modules[module], nn.Linear):
                    array = array.T
                elif leaf == "kernel" and isinstance(modules[module], nn.ConvTranspose2d):
                    array = array[::-1, ::-1].transpose(2, 3, 0, 1)
                elif leaf == "kernel":
                    array = array.transpose(3, 2, 0, 1)
                key = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
                tensors[f"{module}.{key.get(leaf, leaf)}"] = torch.from_numpy(array.copy())
    return tensors


def _module_name(name: str, network: nn.Module) -> str:
    """The name of one of our modules in `network`, for instance `down2_norm` -> `down.2.1`."""
    base, norm = name.removesuffix("_norm"), name.endswith("_norm")
    if base in ("output", "classifier"):
        return base
    if base == "stem":
        return f"stem.{int(norm)}"
    kind, number = base.rstrip("0123456789"), int(base.lstrip("abcdefghijklmnopqrstuvwxyz"))
    if kind == "memory":
        return f"memory.{network.levels - number + 1}"
    return f"{kind}.{number}.{int(norm)}"
