"""Settings, signals, progress and the machine."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from medgraft.config import Config
from medgraft.errors import ResourceError, UsageError
from medgraft.workflows.machine import choose_device, use_threads
from medgraft.workflows.progress import Bars, Lines, Silent, terminal_progress
from medgraft.workflows.settings import load_settings
from medgraft.workflows.stopping import StopRequest


def test_settings_from_file_changes_and_options(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[model]\nsize = 64\nbackbone = 'resnet50'\n", encoding="utf-8")
    config = load_settings(str(file), ["model.size=96"], {"training.seed": 5})
    assert (config.model.size, config.model.backbone, config.training.seed) == (96, "resnet50", 5)
    assert load_settings(None) == Config()


def test_a_config_object_is_taken_as_it_is() -> None:
    config = Config.model_validate({"model": {"size": 64}})
    assert load_settings(config) is config
    with pytest.raises(UsageError, match="CONFIG_TWICE"):
        load_settings(config, ["model.size=96"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_second_insists(number: signal.Signals) -> None:
    insisted: list[int] = []
    before = signal.signal(number, lambda *_: insisted.append(1))
    try:
        with StopRequest() as stop:
            assert not stop.requested()
            os.kill(os.getpid(), number)
            assert stop.requested() and not insisted
            os.kill(os.getpid(), number)
            assert insisted == [1]
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_other_threads_cannot_catch_signals_and_do_not_try() -> None:
    asked: list[bool] = []

    def work() -> None:
        with StopRequest() as stop:
            asked.append(stop.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]


def test_lines_speak_rarely_and_with_rate() -> None:
    stream = io.StringIO()
    lines = Lines(stream, interval=0.0)
    lines.say("hello")
    for done in (0, 50, 100):
        lines.advance("reading", done, 100)
    lines.close()
    said = stream.getvalue().splitlines()
    assert said[0] == "hello" and said[1].startswith("  reading: 50/100, ") and said[1].endswith(" s left")
    assert len(said) == 3
    quiet = io.StringIO()
    patient = Lines(quiet, interval=60.0)
    for done in range(1000):
        patient.advance("reading", done, 1000)
    assert quiet.getvalue() == ""


def test_bars_and_silence(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (Bars(), Silent(), terminal_progress()):
        progress.advance("reading", 1, 2)
        progress.advance("reading", 2, 2)
        progress.advance("scoring", 1, 1)
        progress.say("[bold]as it is[/bold]")
        progress.close()
    assert capsys.readouterr().out.count("[bold]as it is[/bold]") == 2
    assert isinstance(terminal_progress(), Lines)  # the output of a test is no terminal


def test_device_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == ("cpu", "no GPU found") and choose_device("cpu") == ("cpu", "as asked")
    with pytest.raises(ResourceError) as caught:
        choose_device("cuda")
    assert caught.value.code == "DEVICE_MISSING" and caught.value.exit_code == 6
    assert use_threads(1) == 1 and torch.get_num_threads() == 1
    assert use_threads("auto") == len(os.sched_getaffinity(0)) == torch.get_num_threads()
