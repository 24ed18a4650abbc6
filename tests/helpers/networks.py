"""Small networks of all the kinds that `fuse` takes, each with the shape of its images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from capture_helpers import Forward
from torch import Tensor, nn

Conv, Linear, Norm = nn.Conv2d, nn.Linear, nn.BatchNorm2d


class Example(NamedTuple):
    """build: the model, in training mode. shape: of an image. is_random: whether it is, in training mode."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    is_random: bool = False


def model(function: Callable[[Any, Tensor], Any], **modules: nn.Module) -> Callable[[], nn.Module]:
    """A builder of a network with copies of these modules."""
    return lambda: _randomized(Forward(function, **modules))


def chain(*modules: nn.Module) -> Callable[[], nn.Module]:
    """The same of modules one after the other."""
    return lambda: _randomized(nn.Sequential(*modules))


def _randomized(module: nn.Module) -> nn.Module:
    """A copy of `module` with values by which an error of any parameter or buffer shows."""
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.dtype.is_floating_point:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            elif not buffer.dtype.is_floating_point:
                buffer.zero_()
    return module.train()


class Residual(nn.Module):
    """A block of a small residual network, with a convolution in its way round where sizes change."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = Norm(out_channels)
        self.conv2 = Conv(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = Norm(out_channels)
        same = channels == out_channels and stride == 1
        self.skip = nn.Identity() if same else Conv(channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.skip(x)
        return F.relu(y)


class Inception(nn.Module):
    """Branches side by side, whose channels are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = Conv(2, 3, 1), Conv(2, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.one(x), F.relu(self.three(x)), self.pool(x)), dim=1)


class Positions(nn.Module):
    """Parameters of its own beside those of layers: a bias of each pixel, scales of channels, one number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(2, 3, 3, bias=False)
        self.place, self.scale = nn.Parameter(torch.zeros(3, 4, 5)), nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.number = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv(x) + self.place)
        return self.number - self.scale * F.max_pool2d(y, 2) + self.number


class Dense(nn.Module):
    """Every layer reads all values before it."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv(2 + 3 * i, 3, 3, padding=1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = torch.cat((x, F.elu(conv(x))), 1)
        return x


def _actor_critic(net: Any, x: Tensor) -> dict[str, Any]:
    x = torch.relu(net.conv(x.permute(0, 3, 1, 2) / 255.0)).flatten(1)
    return {"policy": F.log_softmax(net.actor(x), dim=-1), "value": net.critic(x).squeeze(1)}


def _unet(net: Any, x: Tensor) -> Tensor:
    first = F.relu(net.down(x))
    second = F.relu(net.bottom(F.max_pool2d(first, 2)))
    return torch.sigmoid(net.out(torch.cat([net.up(second), first], 1)))


def _shared(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    for _ in range(3):
        x = torch.tanh(net.block(x))
    return x


def _padded_shortcut(net: Any, x: Tensor) -> Tensor:
    skip = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2), "constant", 0)
    return F.relu(net.conv(x) + skip)


def _split(net: Any, x: Tensor) -> Tensor:
    first, second = net.conv(x).chunk(2, dim=1)
    return first * torch.sigmoid(second) - 0.5 * second


ACTIVATIONS: dict[str, nn.Module] = {
    "leaky_relu": nn.LeakyReLU(0.2),
    "elu": nn.ELU(0.7),
    "selu": nn.SELU(),
    "celu": nn.CELU(2.0),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "hardtanh": nn.Hardtanh(-0.5, 0.7),
    "relu6": nn.ReLU6(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "softplus": nn.Softplus(2.0, 3.0),
    "hardsigmoid": nn.Hardsigmoid(),
    "prelu": nn.PReLU(),
    "prelu of channels": nn.PReLU(3),
}

NETWORKS: dict[str, Example] = {
    "batch norm": Example(
        chain(Conv(2, 5, 3), Norm(5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), Linear(45, 4)), (2, 8, 8)
    ),
    "batch norm of features": Example(
        chain(Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), Linear(7, 3), nn.BatchNorm1d(3, affine=False)), (6,)
    ),
    "batch norm, cumulative": Example(chain(Conv(2, 3, 3), Norm(3, momentum=None), nn.ReLU()), (2, 6, 7)),
    "batch norm, untracked": Example(chain(Conv(2, 3, 3), Norm(3, track_running_stats=False)), (2, 6, 7)),
    "batch norm first, twice": Example(chain(bn := Norm(2, momentum=0.3), Conv(2, 2, 3), bn), (2, 6, 5)),
    "group norm": Example(
        chain(
            Conv(2, 6, 3), nn.GroupNorm(3, 6), nn.ReLU(), nn.MaxPool2d(2), nn.GroupNorm(2, 6, affine=False)
        ),
        (2, 8, 8),
    ),
    "instance norm": Example(
        chain(Conv(2, 3, 3), nn.InstanceNorm2d(3), nn.ReLU(), nn.InstanceNorm2d(3, affine=True)), (2, 8, 7)
    ),
    "group norm of rows": Example(
        chain(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv1d(4, 3, 3), nn.InstanceNorm1d(3)),
        (2, 19),
    ),
    "layer norm": Example(
        chain(Conv(1, 2, 3), nn.LayerNorm((4, 5)), nn.GELU(), nn.Flatten(), Linear(40, 9), nn.LayerNorm(9)),
        (1, 6, 7),
    ),
    "layer norm of channels": Example(
        model(
            lambda n, x: n.norm(n.conv(x).permute(0, 2, 3, 1)).tanh(),
            conv=Conv(1, 5, 3),
            norm=nn.LayerNorm(5),
        ),
        (1, 6, 7),
    ),
    "positions": Example(chain(Positions(), nn.Flatten()), (2, 6, 7)),
    "residual": Example(
        chain(Residual(3, 4, 2), Residual(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 9, 8)
    ),
    "padded shortcut": Example(model(_padded_shortcut, conv=Conv(3, 6, 3, 2, 1)), (3, 8, 8)),
    "inception": Example(chain(Inception(), Conv(9, 2, 1)), (2, 7, 6)),
    "dense": Example(chain(Dense(), nn.AvgPool2d(2), nn.Flatten(), Linear(99, 3)), (2, 6, 7)),
    "u-net": Example(
        model(
            _unet,
            down=Conv(1, 3, 3, padding=1),
            bottom=Conv(3, 4, 3, padding=1),
            up=nn.ConvTranspose2d(4, 3, 2, 2),
            out=Conv(6, 1, 1),
        ),
        (1, 8, 8),
    ),
    "shared weights": Example(
        model(_shared, stem=Conv(2, 3, 3), block=nn.Sequential(Conv(3, 3, 3, padding=1), nn.ReLU())),
        (2, 8, 7),
    ),
    "gated halves": Example(model(_split, conv=Conv(2, 6, 3)), (2, 7, 7)),
    "added to itself": Example(model(lambda n, x: (y := n.conv(x)) + y, conv=Conv(2, 3, 3)), (2, 5, 5)),
    "squared": Example(model(lambda n, x: n.conv(x) ** 2 - n.conv(x) * 3, conv=Conv(2, 3, 3)), (2, 5, 5)),
    "input used again": Example(model(lambda n, x: x - n.conv(x), conv=Conv(2, 2, 3, padding=1)), (2, 5, 6)),
    "actor and critic": Example(
        model(_actor_critic, conv=Conv(3, 4, 3), actor=Linear(64, 5), critic=Linear(64, 1)), (6, 6, 3)
    ),
    "logits and features": Example(
        model(lambda n, x: (n.fc(h := n.conv(x).flatten(1)), h), conv=Conv(1, 2, 3), fc=Linear(32, 4)),
        (1, 6, 6),
    ),
    "nested outputs": Example(
        model(
            lambda n, x: [h := n.a(x), {"b": (F.relu(h), n.b(h)), "same": h, "none": None, "number": 3}],
            a=Linear(5, 4),
            b=Linear(4, 4),
        ),
        (5,),
    ),
    "softmax": Example(
        model(lambda n, x: (h := n.fc(x), F.softmax(h, dim=1), F.softmin(h, -1)), fc=Linear(6, 4)), (6,)
    ),
    "softmax of pixels": Example(chain(Conv(2, 3, 3), nn.Softmax2d(), nn.LogSoftmax(dim=2)), (2, 5, 7)),
    "conv1d": Example(
        chain(
            nn.Conv1d(2, 4, 5, stride=2, padding=2),
            nn.BatchNorm1d(4),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(4, 3, 3, padding="same", dilation=2),
            nn.AvgPool1d(2, padding=1),
            nn.AdaptiveAvgPool1d(2),
            nn.Flatten(),
            Linear(6, 3),
        ),
        (2, 33),
    ),
    "conv_transpose1d": Example(
        chain(nn.ConvTranspose1d(2, 4, 4, 2, 1, groups=2), nn.LeakyReLU(), nn.AdaptiveMaxPool1d(3)), (2, 9)
    ),
    "conv_transpose2d": Example(
        chain(
            nn.Unflatten(1, (4, 2, 3)),
            nn.ConvTranspose2d(4, 6, 3, (2, 3), 1, output_padding=1, groups=2, bias=False, dilation=2),
            nn.Tanh(),
        ),
        (24,),
    ),
    "depthwise": Example(chain(Conv(4, 4, 3, padding=1, groups=4), nn.ReLU6(), Conv(4, 6, 1)), (4, 6, 7)),
    "avg pools": Example(
        chain(
            Conv(1, 2, 3),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            nn.ReLU(),
            nn.AvgPool2d((2, 1), divisor_override=3),
            nn.AvgPool2d(1, 1),
        ),
        (1, 11, 10),
    ),
    "adaptive pools": Example(
        chain(Conv(2, 3, 2), nn.AdaptiveMaxPool2d((4, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d((3, 2))), (2, 8, 9)
    ),
    "means": Example(
        model(
            lambda n, x: ((y := n.conv(x)).mean((2, 3)), y.mean(3), y.mean(-2, keepdim=True)),
            conv=Conv(2, 3, 3),
        ),
        (2, 7, 6),
    ),
    "means of rows": Example(
        model(
            lambda n, x: (n.conv(x).mean(2), n.conv(x).mean(1), n.conv(x).mean((1, 2))),
            conv=nn.Conv1d(2, 3, 3),
        ),
        (2, 9),
    ),
    "maxima": Example(
        model(
            lambda n, x: torch.cat([(y := n.conv(x)).amax((2, 3)), y.flatten(2).max(2)[0]], 1),
            conv=Conv(2, 3, 3),
        ),
        (2, 7, 6),
    ),
    "max pool over all": Example(
        model(lambda n, x: F.max_pool2d(y := n.conv(x), y.shape[2:]).flatten(1), conv=Conv(2, 3, 3)),
        (2, 7, 6),
    ),
    "pixel shuffle": Example(chain(Conv(1, 12, 3), nn.PixelShuffle(2), nn.PixelUnshuffle(2)), (1, 6, 5)),
    "scaled input": Example(model(lambda n, x: n.conv((x / 255 - 0.5) * 2), conv=Conv(1, 2, 3)), (1, 6, 6)),
    "exp and abs": Example(
        model(lambda n, x: (y := n.conv(x)).exp() - y.abs(), conv=Conv(2, 3, 3)), (2, 5, 7)
    ),
    "arithmetic": Example(
        model(lambda n, x: torch.add(-(1 - n.fc(x) * 0.5), n.fc(x), alpha=0.3).sub(2.0), fc=Linear(4, 3)),
        (4,),
    ),
    "reshaped input": Example(chain(nn.Unflatten(1, (1, 6, 8)), Conv(1, 2, 3), nn.Flatten(2)), (48,)),
    "unsqueezed input": Example(
        model(lambda n, x: n.conv(x.unsqueeze(1)).squeeze(1), conv=Conv(1, 1, 3)), (6, 8)
    ),
    "zero padding": Example(
        chain(nn.ZeroPad2d((1, 2, 0, 3)), Conv(2, 3, 3, padding=(1, 0)), nn.ConstantPad2d(1, 0.5)), (2, 5, 6)
    ),
    "padding that cuts": Example(
        model(lambda n, x: n.conv(F.pad(x, (-1, 2, 1, -2, 1, 0), value=0.25)), conv=Conv(3, 2, 3)), (2, 7, 6)
    ),
    "padded rows": Example(model(lambda n, x: n.conv(F.pad(x, (3, 0))), conv=nn.Conv1d(2, 3, 4)), (2, 9)),
    "slices": Example(
        model(lambda n, x: (n.conv(x)[:, 1:, ::2, -3:-1], x[:, 0, 1], n.conv(x)[..., 2]), conv=Conv(2, 3, 3)),
        (2, 8, 7),
    ),
    "parts": Example(
        model(
            lambda n, x: sum(n.conv(x).split([1, 3], 1)[1].unbind(1)[1:], n.conv(x)[:, 0]),
            conv=Conv(2, 4, 3),
        ),
        (2, 5, 6),
    ),
    "permutations": Example(
        model(
            lambda n, x: n.fc(n.conv(x.transpose(1, 3).transpose(2, 3)).movedim(1, -1)),
            conv=Conv(2, 3, 2),
            fc=Linear(3, 4),
        ),
        (5, 6, 2),
    ),
    "linear on rows": Example(chain(Linear(6, 5), nn.GELU(), Linear(5, 2), nn.Flatten()), (3, 4, 6)),
    "identities": Example(
        chain(nn.Identity(), Conv(1, 2, 3), nn.Dropout(0.0), nn.AvgPool2d(1), nn.MaxPool2d(1, 1), nn.ReLU()),
        (1, 5, 5),
    ),
    "in place": Example(
        model(
            lambda n, x: ((y := n.conv(x)).add_(1).mul_(0.5), F.leaky_relu_(y, 0.1))[0], conv=Conv(2, 3, 3)
        ),
        (2, 6, 6),
    ),
    "dead branch": Example(
        model(lambda n, x: (n.other(x).sin(), n.conv(x))[1], conv=Conv(2, 3, 3), other=Conv(2, 3, 3)),
        (2, 6, 6),
    ),
    "dropout": Example(
        chain(Conv(1, 4, 3), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(), Linear(64, 8), nn.Dropout(0.5)),
        (1, 6, 6),
        is_random=True,
    ),
    "functional dropout": Example(
        model(lambda n, x: n.b(F.dropout(n.a(x).relu(), 0.4, n.training)), a=Linear(6, 9), b=Linear(9, 2)),
        (6,),
        is_random=True,
    ),
    "dropout and batch norm": Example(
        chain(Conv(2, 4, 3), nn.Dropout(0.2), Norm(4), nn.SiLU(), nn.Dropout2d(0.0)),
        (2, 6, 6),
        is_random=True,
    ),
    **{
        f"activation {name}": Example(chain(Conv(2, 3, 3), module, nn.MaxPool2d(2)), (2, 7, 8))
        for name, module in ACTIVATIONS.items()
    },
}


def images(example: Example, batch: int, dtype: torch.dtype = torch.float64, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *example.shape, generator=generator, dtype=torch.float64).to(dtype)
