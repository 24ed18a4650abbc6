"""How the program ends: by signals, at every stage, and by outputs that cannot be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import SEARCHED, python
from safetensors.torch import load_file

from lenet_ext.commands.stopping import Stopped, signals_noted

pytest.importorskip("pty", reason="a terminal of one's own needs POSIX")
from terminal import Terminal

TRAIN = ("-m", "lenet_ext", "train", "--no-compare", "--epochs")
STARTS = {"module": ["-m", "lenet_ext"], "script": ["-c", "from _lenet_ext_cli import main; main()"]}

# An import that takes its time, and takes Ctrl-C for an error of its own, as C++ code does.
SLOW_TORCH = """
import sys, time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException as error:
    raise ImportError("torch: initialization failed") from error
"""


pytestmark = pytest.mark.usefixtures("no_signal_is_ignored")


@pytest.mark.parametrize("start", STARTS)
def test_interrupt_while_torch_is_imported(tmp_path: Path, start: str) -> None:
    (tmp_path / "torch.py").write_text(SLOW_TORCH)
    searched = os.pathsep.join([str(tmp_path), SEARCHED])
    terminal = Terminal(*STARTS[start], "info", PYTHONPATH=searched)
    terminal.read_until("importing")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.screen.split() == ["importing"]


@pytest.mark.parametrize("start", STARTS)
def test_an_import_that_fails_is_one_line(start: str) -> None:
    result = python(*STARTS[start], "info", environment={"LENET_EXT_ISA": "avx9"})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("lenet-ext: error: lenet_ext: LENET_EXT_ISA=avx9 is unknown")
    assert result.stderr.count("\n") == 1


def test_a_package_that_imports_lenet_ext_under_m_is_no_program(tmp_path: Path) -> None:
    """The package of another program is imported with `-m` in the arguments, too."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/__init__.py").write_text("import lenet_ext")
    (tmp_path / "trainer/__main__.py").write_text(
        "import signal; print(signal.getsignal(2).__name__); raise ImportError('mine')"
    )
    searched = os.pathsep.join([str(tmp_path), SEARCHED])
    result = python("-m", "trainer", environment={"PYTHONPATH": searched})
    assert result.stdout == "default_int_handler\n"
    assert result.stderr.startswith("Traceback")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_signals_end_training_in_order(tmp_path: Path, name: str) -> None:
    """The checkpoint of the last epoch is whole, the cursor is there, the progress line is gone."""
    terminal = Terminal(*TRAIN, "1000", "--out", tmp_path / "out", columns=100)
    terminal.read_until("epoch   2 ")
    terminal.process.send_signal(getattr(signal, name))
    assert terminal.finish() == 128 + getattr(signal, name)
    assert terminal.screen.count("\x1b[?25l") == 0, "the cursor was hidden"
    last_line = terminal.screen.rstrip().splitlines()[-1]
    assert f"lenet-ext: stopped by {name}; lenet-ext train --resume --out " in last_line
    assert "Traceback" not in terminal.screen
    epochs = len((tmp_path / "out/metrics.jsonl").read_text().splitlines())
    assert epochs >= 2
    assert load_file(tmp_path / "out/checkpoint.safetensors")


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """What nohup does."""
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from lenet_ext.cli import main; main()"
    )
    terminal = Terminal("-c", code, "train", "--no-compare", "--epochs", "3", "--out", tmp_path / "out")
    terminal.read_until("epoch   1 ")
    terminal.process.send_signal(signal.SIGHUP)
    assert terminal.finish() == 0
    assert "written to" in terminal.screen


def test_a_second_signal_ends_the_process_at_once() -> None:
    code = """
import os, signal
from lenet_ext.commands.stopping import *
with signals_noted():
    for _ in range(2):
        print("signal", flush=True)
        signal.raise_signal(signal.SIGTERM)
    print("not reached")
"""
    result = python("-c", code)
    assert (result.returncode, result.stdout) == (128 + signal.SIGTERM, "signal\nsignal\n")


def test_nothing_is_raised_where_it_would_be_swallowed() -> None:
    """A destructor swallows exceptions: the signal would be lost, and Python would print a traceback."""

    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with signals_noted() as raise_noted:
        Interrupted()
        with pytest.raises(Stopped):
            raise_noted()


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals_noted() as raise_noted:
        raise_noted()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            raise_noted()
    assert signal.getsignal(signal.SIGTERM) == before


def test_training_outlives_a_closed_output(tmp_path: Path) -> None:
    """As in `lenet-ext train | head -1`."""
    arguments = [sys.executable, *TRAIN, "3", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("digits: ")
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0
    assert (tmp_path / "out/confusion.png").exists()


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_were_never_open(streams: str) -> None:
    command = f'exec "{sys.executable}" -m lenet_ext info --json {streams}'
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    result = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"{" if streams == "2>&-" else b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_lost_output_is_an_error_that_names_it(tmp_path: Path) -> None:
    """The table of a training run is lost, its files are not."""
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    for arguments in (["-m", "lenet_ext", "info"], [*TRAIN, "1", "--out", str(tmp_path / "out")]):
        with open("/dev/full", "w") as full:
            result = subprocess.run(
                [sys.executable, *arguments],
                env=environment,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert result.returncode == 2
        assert result.stderr == "lenet-ext: error: standard output: No space left on device\n"
    assert (tmp_path / "out/confusion.png").exists()


@pytest.mark.parametrize("columns", ["0", "-3", "²", "9" * 30, ""])
def test_columns_that_make_no_sense(columns: str) -> None:
    terminal = Terminal("-m", "lenet_ext", "info", COLUMNS=columns)
    assert terminal.finish() == 0
    assert "torch.version" in terminal.screen


@pytest.mark.parametrize(
    "encoding", ["ascii", "ascii:surrogateescape"]
)  # the latter is Python's in the C locale
def test_characters_that_the_output_lacks(encoding: str) -> None:
    environment = {"PYTHONIOENCODING": encoding}
    code = "import sys; from lenet_ext.commands.streams import *\nwith lasting_streams(): print('Löwe')"
    assert python("-c", code, environment=environment).stdout == "L\\xf6we\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lines_come_in_order(unbuffered: str) -> None:
    code = """
import sys
from lenet_ext.commands.streams import *
with lasting_streams():
    for number in range(3):
        print(number, file=(sys.stdout, sys.stderr)[number % 2])
"""
    terminal = Terminal("-c", code, PYTHONUNBUFFERED=unbuffered)
    assert terminal.finish() == 0
    assert terminal.screen.split() == ["0", "1", "2"]
