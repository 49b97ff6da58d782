"""What a person reads while a run trains."""

from __future__ import annotations

import io

from rich.console import Console

from jepakit.training.progress import Progress


def spoken(act, steps=100):
    text = io.StringIO()
    progress = Progress(steps, Console(file=text, width=60))
    with progress:
        act(progress)
    return text.getvalue().splitlines()


def line(step, steps=100):
    return {"step": step, "progress": step / steps, "loss": 0.5, "time/samples_per_s": 1234.0, "time/step_s": 6.0}


def test_without_a_terminal_there_are_about_ten_lines_a_run():
    lines = spoken(lambda p: [p.update(line(step), 100) for step in range(1, 101)])
    assert 10 <= len(lines) <= 11
    assert lines[0] == "step 10/100  loss 0.5000  1,234 samples/s  9 min left"
    assert lines[-1] == "step 100/100  loss 0.5000  1,234 samples/s"


def test_a_verdict_is_told_when_it_changes():
    def health(verdict):
        return {"health/verdict": verdict, "health/message": "because"}

    def act(progress):
        progress.health(health("start"), 0, changed=True)
        progress.health(health("healthy"), 10, changed=True)
        progress.health(health("healthy"), 20, changed=False)
        progress.health(health("collapsed"), 30, changed=True)
        progress.health({"health/lidar": 3.0}, 31, changed=False)

    assert spoken(act) == ["health at step 10: healthy — because", "health at step 30: collapsed — because"]


def test_what_is_said_stands_as_it_is():
    """A path may look like a style or an emoji to rich, and must not be broken where it is to be copied."""
    text = "jepakit resume '/data/[old]/a:dog:b/" + "x" * 80 + "'"
    assert spoken(lambda p: p.say(text)) == [text]
    assert spoken(lambda p: p.say("[bold]x[/]", "red")) == ["[bold]x[/]"]
