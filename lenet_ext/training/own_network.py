"""A network of the user's own: a class or a function in a Python file, whose text a checkpoint keeps."""

from __future__ import annotations

import copy
import hashlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lenet_ext.training.errors import InputError, error_text, os_error_text
from lenet_ext.training.files import check_is_file

FORM = "FILE.py:Name"


@dataclass(frozen=True)
class OwnNetwork:
    """file: its path, as it was typed. name: of the class or function. source: the text of the file."""

    file: str
    name: str
    source: str

    @classmethod
    def read(cls, text: str) -> OwnNetwork:
        """What `FILE.py:Name` says; an `InputError` where there is no such file."""
        file, _, name = text.rpartition(":")
        if not file or not name.isidentifier():
            raise InputError(f"--model {text}: wanted {FORM}")
        try:
            check_is_file(Path(file))
            source = Path(file).read_text("utf-8-sig")  # Python takes a byte-order mark, too
        except OSError as error:
            raise InputError(f"--model {text}: {file}: cannot be read: {os_error_text(error)}") from error
        except ValueError as error:  # no UTF-8, or a path that no file can have
            raise InputError(f"--model {text}: {file}: {error_text(error)}") from error
        return cls(file, name, source)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def title(self) -> str:
        return f"{self.file}:{self.name}"

    def build(self, network: Mapping[str, int]) -> nn.Module:
        """The network, of native torch's layers, called with those of these arguments that it takes.

        Runs the file. Raises `InputError` for whatever goes wrong in it, and for a network that does not make
        logits (N, num_classes) of images (N, in_channels, image_size, image_size).
        """
        make = self._made(lambda: _find(self, self._executed()))
        given = self._arguments(make, network)
        model = self._made(lambda: make(**given))
        if not isinstance(model, nn.Module):
            raise self._error(f"gives a {type(model).__name__}, wanted a torch.nn.Module")
        self._check(model, network)
        return model

    def _executed(self) -> ModuleType:
        """The file as a module of its own, which torch.export and pickle find by its name."""
        name = f"_lenet_ext_own_network_{self.sha256}"
        if name not in sys.modules:
            # What shows lines of the code, or reads it, finds them here, whether the file is there or not.
            lines = self.source.splitlines(keepends=True)
            linecache.cache[self.file] = (len(self.source), None, lines, self.file)
            module = ModuleType(name)
            module.__file__ = self.file
            sys.modules[name] = module
            try:
                exec(compile(self.source, self.file, "exec", dont_inherit=True), module.__dict__)
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]

    def _arguments(self, make: Callable[..., Any], network: Mapping[str, int]) -> dict[str, int]:
        if getattr(make, "__init__", None) is nn.Module.__init__:  # which takes anything, to refuse it
            return {}
        parameters = inspect.signature(make).parameters.values()
        if any(one.kind is one.VAR_KEYWORD for one in parameters):
            return dict(network)
        named = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        for one in parameters:
            optional = one.default is not one.empty or one.kind is one.VAR_POSITIONAL
            if not optional and (one.name not in network or one.name not in named):
                known = ", ".join(network)
                raise self._error(f"needs an argument {one.name}; known are {known}: give others a default")
        return {name: value for name, value in network.items() if name in named}

    def check_output(self, model: nn.Module, network: Mapping[str, int], count: int, when: str = "") -> None:
        """Raises `InputError` where `model`, in the mode that it is in, makes no logits of `count` images."""
        shape = (count, network["in_channels"], network["image_size"], network["image_size"])
        wanted = (count, network["num_classes"])
        with torch.no_grad():
            what = f"{when}does not take images of shape {shape}: "
            output = self._made(lambda: model(torch.zeros(shape)), what)
        if not isinstance(output, torch.Tensor) or tuple(output.shape) != wanted:
            got = tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
            raise self._error(f"{when}gives {got} for images of shape {shape}, wanted logits {wanted}")

    def _check(self, model: nn.Module, network: Mapping[str, int]) -> None:
        modes = [module.training for module in model.modules()]
        self.check_output(model.eval(), network, 2)
        self.check_output(copy.deepcopy(model).train(), network, 2, "in training mode ")
        for module, mode in zip(model.modules(), modes, strict=True):
            module.training = mode
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise self._error("has no parameter to train")
        for name, value in model.state_dict().items():
            if not isinstance(value, torch.Tensor):
                raise self._error(f"keeps {name}, a {type(value).__name__}, which a checkpoint cannot hold")
            if value.is_floating_point() and value.dtype != torch.float32:
                raise self._error(f"has {name} of {value.dtype}, wanted torch.float32")

    def _made(self, call: Callable[[], Any], what: str = "") -> Any:
        """What `call` returns; whatever it raises as an `InputError` with the last line of the file in it."""
        try:
            return call()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            line = error.lineno if isinstance(error, SyntaxError) else None
            for frame in traceback.extract_tb(error.__traceback__):
                line = frame.lineno if frame.filename == self.file else line
            where = "" if line is None else f"line {line}: "
            advice = "; the file must stand alone" if isinstance(error, ImportError) else ""
            reason = f"{type(error).__name__}: {error_text(str(error))}"
            raise self._error(f"{what}{where}{reason}{advice}") from error

    def _error(self, text: str) -> InputError:
        return InputError(f"--model {self.title}: {text}")


def trusted(own: OwnNetwork | None, checkpoint: Path, given: str | None, trusts: bool) -> OwnNetwork | None:
    """The network of a checkpoint, whose text may be run: the user names a file that has it, or says so.

    own: None for a LeNet. given: FILE.py:Name of that file. trusts: whether the text in the checkpoint may be
    run as it is. Raises `InputError` otherwise: a checkpoint from elsewhere may hold any program, or name any
    that lies here.
    """
    if own is None:
        if given is not None:
            raise InputError(f"--model {given}: {checkpoint} is of the LeNet")
        if trusts:
            raise InputError(f"--trust-model: {checkpoint} is of the LeNet")
        return None
    if given is None:
        if trusts:
            return own
        raise InputError(
            f"{checkpoint}: its network is a program, {own.title}: give --model {FORM} to run that text, or "
            "--trust-model to run the one in the checkpoint"
        )
    if trusts:
        raise InputError(f"--trust-model: --model {given} says what to run")
    file = OwnNetwork.read(given)
    if (file.name, file.sha256) != (own.name, own.sha256):
        raise InputError(
            f"--model {given}: {checkpoint} is of {own.title} with SHA-256 {own.sha256[:12]}, this has "
            f"{file.sha256[:12]}"
        )
    return file


def _find(own: OwnNetwork, module: ModuleType) -> Callable[..., Any]:
    found = getattr(module, own.name, None)
    if isinstance(found, type) or inspect.isfunction(found):
        return found
    if found is not None:
        raise InputError(f"--model {own.title}: is a {type(found).__name__}, wanted a class or a function")
    own_names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]
    there = f"; the networks there are {', '.join(own_names)}" if own_names else ""
    raise InputError(f"--model {own.title}: no such class or function{there}")
