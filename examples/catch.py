"""Catch, the game of dqn.py: a ball falls down a board of 7x7 fields, and a paddle moves along its bottom.

A caught ball is worth 1, a lost one -1. The player sees the last four frames, of 84x84 bytes each.
"""

import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BOARD, PIXELS = 7, 12  # fields of 12x12 pixels
ACTIONS = 3  # left, stay, right
Network = Callable[[Tensor], Tensor]  # (N, 4, 84, 84) uint8 to (N, 3), the values of the actions
Move = tuple[Tensor, int, int, bool]  # four frames and the next one, action, reward, whether the game is over


def drawn(row: int, ball: int, paddle: int) -> Tensor:
    """A frame: (1, 84, 84) uint8."""
    board = torch.zeros(1, BOARD, BOARD, dtype=torch.uint8)
    board[0, row, ball] = board[0, -1, paddle] = 255
    return board.repeat_interleave(PIXELS, 1).repeat_interleave(PIXELS, 2)


def play(network: Network, exploration: float) -> Iterator[Move]:
    """One game, in which this share of the moves is random and the others are the network's."""
    ball, paddle = random.choices(range(BOARD), k=2)
    frames = drawn(0, ball, paddle).repeat(5, 1, 1)
    for row in range(1, BOARD):
        if random.random() < exploration:
            action = random.randrange(ACTIONS)
        else:
            with torch.no_grad():
                action = int(network(frames[None, 1:]).argmax())
        paddle = min(max(paddle + action - 1, 0), BOARD - 1)
        frames, over = torch.cat((frames[1:], drawn(row, ball, paddle))), row == BOARD - 1
        yield frames, action, over * (1 if ball == paddle else -1), over


def mean_return(network: Network, games: int = 100) -> float:
    """The mean reward of a game without random moves."""
    return sum(reward for _ in range(games) for _, _, reward, _ in play(network, exploration=0)) / games
