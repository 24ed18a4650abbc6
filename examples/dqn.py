"""Deep Q-learning from pixels with fused networks, in a training loop of your own.

After Mnih et al., "Human-level control through deep reinforcement learning" (2015). The game of catch.py has
frames of bytes, which `mean=0, std=1` divides by 255. Fused networks and native torch are timed in the end.

    python examples/dqn.py
"""

import argparse
import copy
import random
import time
from collections import deque

import torch
from torch import nn

import lenet_ext
from catch import ACTIONS, Move, Network, mean_return, play


def learn(online: Network, target: Network, optimizer: torch.optim.Optimizer, moves: list[Move]) -> float:
    began = time.perf_counter()
    frames = torch.stack([frames for frames, *_ in moves])
    actions, rewards, over = torch.tensor([numbers for _, *numbers in moves]).split(1, dim=1)
    with torch.no_grad():
        wanted = rewards + 0.97 * (1 - over) * target(frames[:, 1:]).amax(1, keepdim=True)
    optimizer.zero_grad()
    nn.functional.smooth_l1_loss(online(frames[:, :4]).gather(1, actions), wanted).backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 10.0)
    optimizer.step()
    return time.perf_counter() - began


parser = argparse.ArgumentParser(description="Learn to catch a ball by deep Q-learning.")
parser.add_argument("--quick", action="store_true", help="5 games instead of 250")
games = 5 if parser.parse_args().quick else 250
random.seed(0)
torch.manual_seed(0)
torch.set_num_threads(1)
conv1, conv2, conv3 = nn.Conv2d(4, 32, 8, stride=4), nn.Conv2d(32, 64, 4, stride=2), nn.Conv2d(64, 64, 3)
convolutions = nn.Sequential(conv1, nn.ReLU(), conv2, nn.ReLU(), conv3, nn.ReLU(), nn.Flatten())
model = nn.Sequential(convolutions, nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS))
models = [copy.deepcopy(model) for _ in range(4)]
online, target = (lenet_ext.fuse(m, torch.zeros(1, 4, 84, 84), mean=0, std=1) for m in models[:2])
plain, plain_target = (lambda frames, m=m: m(frames / 255) for m in models[2:])
optimizer, plain_optimizer = (torch.optim.Adam(m.parameters(), 3e-4, fused=True) for m in models[::2])
memory = deque((move for _ in range(100) for move in play(online, exploration=1)), maxlen=4000)
print(f"mean return before: {mean_return(online):+.2f}")
for game in range(games):
    if game % 15 == 0:
        target.load_state_dict(online.state_dict())
    for move in play(online, exploration=0.1):
        memory.append(move)
        learn(online, target, optimizer, random.sample(memory, 32))
print(f"mean return after {games} games: {mean_return(online):+.2f}")
sides = (online, target, optimizer), (plain, plain_target, plain_optimizer)
times = [[learn(*side, random.sample(memory, 32)) for side in sides] for _ in range(games)]
rates = 1 / torch.tensor(times).median(0).values
print(f"learning steps per second: {rates[0]:.0f} fused, {rates[1]:.0f} with native torch")
