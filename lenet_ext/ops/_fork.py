"""Torch's own functions in a forked child, where its pool of threads is gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch.compiler import is_dynamo_compiling

from lenet_ext._C import in_forked_child

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def serial_in_forked_child(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, in which torch uses the calling thread alone where it would wait for its pool forever."""

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if is_dynamo_compiling() or not in_forked_child():
            return function(*args, **kwargs)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)

    return call
