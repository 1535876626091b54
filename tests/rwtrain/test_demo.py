"""The demo's own logic: which steps were run twice, and when a stage is reused."""

from __future__ import annotations

from pathlib import Path

from rwtrain.demo import Demo, repeated_losses


def test_steps_run_by_two_processes_are_compared_with_all_losses() -> None:
    lines = [{"step": step, "process": 0, "loss/total": float(step), "tokens_per_s": 5.0} for step in (1, 2, 3)]
    lines += [{"step": step, "process": 1, "loss/total": value, "tokens_per_s": 9.0} for step, value in ((3, 3.5), (4, 4.0))]
    assert repeated_losses(lines) == {3: ({"loss/total": 3.0}, {"loss/total": 3.5})}


def test_a_finished_stage_is_reused_until_an_input_of_it_or_before_it_changes(tmp_path: Path) -> None:
    settings, done = tmp_path / "settings.yaml", []

    def run(content: str, *, fresh: bool = False) -> list[str]:
        settings.write_text(content)
        done.clear()
        demo = Demo(tmp_path, fresh=fresh)
        for name, inputs in (("first", [settings]), ("second", [])):
            demo.stage(name, lambda name=name: done.append(name) or {}, *inputs)
        return list(done)

    assert run("a") == ["first", "second"]
    assert run("a") == []
    assert run("b") == ["first", "second"]
    assert run("b", fresh=True) == ["first", "second"]
