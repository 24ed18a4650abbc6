"""Ray: the chunks of a sweep on a local cluster of two workers, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from processes import SEARCHED, python
from safetensors.torch import load_file

from lenet_ext.training.errors import InputError
from lenet_ext.training.sweep import on_ray
from lenet_ext.training.sweep.session import sweep_in_folder

OPTIONS = {"lr": "0.003,0.03", "momentum": "0,0.9", "seeds": 2, "epochs": 4}
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Silent:
    """An observer that follows nothing."""

    def note(self, text: str) -> None: ...

    def going_on(self) -> None: ...

    def sweep_started(self, sweep: Any) -> None: ...

    def steps_done(self, chunk: int, epoch: int, steps: int) -> None: ...

    def epoch_done(self, sweep: Any, chunk: int) -> None: ...

    def picture_failed(self, name: str, message: str) -> None:
        raise AssertionError(message)


class Killer(Silent):
    """Kills the first worker that is seen to train a chunk, while it does."""

    killed: int | None = None

    def going_on(self) -> None:
        workers = training_workers() if self.killed is None else []
        if workers:
            time.sleep(0.2)  # it is in the middle of it
            self.killed = workers[0]
            os.kill(self.killed, signal.SIGKILL)


def training_workers() -> list[int]:
    """The numbers of this process's descendants that are workers with a chunk."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            titles[int(folder.name)] = (folder / "cmdline").read_text()
            parents[int(folder.name)] = int(status[1])
        except (OSError, ValueError):  # no process, or one that has just ended
            continue
    return [pid for pid, title in titles.items() if title.startswith("ray::_train") and is_ours(pid, parents)]


def is_ours(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        if pid == os.getpid():
            return True
        pid = parents[pid]
    return False


def results(out: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What a sweep has found out, but for times."""
    lines = [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]
    lines = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    tensors = load_file(out / "best.safetensors")
    return lines, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.usefixtures("cluster")
def test_a_killed_workers_chunk_is_done_again(tmp_path: Path) -> None:
    """And the bits are those of a sweep without Ray."""
    killer = Killer()
    sweep = sweep_in_folder(tmp_path / "ray", OPTIONS, False, killer, ray="")
    assert killer.killed is not None
    assert not Path(f"/proc/{killer.killed}").exists()
    assert len(sweep.ranges()) == 2
    assert all(chunk.finished for chunk in sweep.chunks.values())
    sweep_in_folder(tmp_path / "here", OPTIONS, False, Silent())
    assert results(tmp_path / "ray") == results(tmp_path / "here")


class Stop(BaseException):
    pass


class Stopping(Silent):
    """Ends the sweep when its first chunk is finished."""

    def epoch_done(self, sweep: Any, chunk: int) -> None:
        raise Stop


@pytest.mark.usefixtures("cluster")
def test_a_sweep_goes_on_with_ray_or_without(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stop):
        sweep_in_folder(out, OPTIONS, False, Stopping(), chunk=3)  # after its first epoch
    with pytest.raises(Stop):
        sweep_in_folder(out, OPTIONS, True, Stopping(), ray="")
    finished = len(list((out / "chunks").iterdir()))
    assert 1 <= finished < 3
    sweep_in_folder(out, OPTIONS, True, Silent())
    sweep_in_folder(tmp_path / "here", OPTIONS, False, Silent())
    assert results(out) == results(tmp_path / "here")


@pytest.mark.usefixtures("cluster")
def test_what_a_worker_refuses() -> None:
    task = ray.remote(on_ray._train)
    with pytest.raises(InputError, match=r"--ray: a worker has lenet_ext .*, wanted 0\.0"):
        on_ray._result(task.remote("0.0", [], None, None, None), 0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "--ray 127.0.0.1:1: no cluster answers there: Connection refused"),
        ("127.0.0.1:99999", "--ray 127.0.0.1:99999: no cluster answers there: "),
        ("garbage", "--ray garbage: no cluster: Invalid address format: garbage"),
    ],
)
def test_addresses_of_no_cluster(tmp_path: Path, address: str, message: str) -> None:
    """In a process of its own, since this one may have a cluster."""
    sweep = ("-m", "lenet_ext", "sweep", "--epochs", "1", "--ray", address, "--out", tmp_path / "out")
    result = python(*sweep)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"lenet-ext: error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_a_sweep_on_ray(tmp_path: Path) -> None:
    sweep = ("-m", "lenet_ext", "sweep", "--epochs", "100000", "--seeds", "2", "--ray", "--chunk", "1")
    program = subprocess.Popen(
        [sys.executable, *sweep, "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": SEARCHED},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    line = ""
    while "2 networks in 2 chunks" not in line:
        line = program.stdout.readline()
        assert line, "it ended by itself"
    program.send_signal(signal.SIGTERM)
    _, stderr = program.communicate(timeout=120)
    assert program.returncode == 128 + signal.SIGTERM
    wanted = f"lenet-ext sweep --resume --out {tmp_path}/out --ray goes on from what is done"
    assert stderr.splitlines()[-1] == f"lenet-ext: stopped by SIGTERM; {wanted}"
