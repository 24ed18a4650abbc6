"""Calls in a child of a fork, as of a DataLoader."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch


def in_a_child(call: Callable[[], object]) -> object:
    """What `call` returns in a child of this process, whose pool of threads was in use."""
    torch.set_num_threads(2)
    torch.ones(1_000_000).add_(1)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def run(connection: Connection) -> None:
        with torch.no_grad():
            connection.send(call())

    child = context.Process(target=run, args=(send,))
    child.start()
    try:
        assert receive.poll(20), "the child hangs"
        return receive.recv()
    finally:
        child.kill()
        child.join()
