# SPDX-License-Identifier: Apache-2.0
"""The report: what stands in it, when it is written, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from monai_ext.handlers.draw import png_bytes
from monai_ext.handlers.overlays import CaseOverlays
from monai_ext.handlers.report import RunReport, build_report, main, write_report
from monai_ext.handlers.report_data import Picture, read_cases
from monai_ext.handlers.report_sections import duration, mean_sd
from monai_ext.handlers.term_log import TermLog

EPOCHS = {
    1: {"epoch": 1, "loss": 3.0, "term/crf": 0.5, "weight/crf": 0.1, "lr": 0.01, "epoch_s": 3600.0},
    2: {
        "epoch": 2,
        "loss": 2.0,
        "term/crf": 0.4,
        "weight/crf": 1.0,
        "lr": 0.005,
        "epoch_s": 60.0,
        "val/mean_dice": 0.8,
    },
    3: {
        "epoch": 3,
        "loss": 1.5,
        "term/crf": 0.3,
        "weight/crf": 1.0,
        "lr": 0.001,
        "epoch_s": 60.0,
        "val/mean_dice": 0.7,
    },
}
CASES = {"a": {"assd": 1.0, "mean_dice": 0.8}, "b": {"assd": 3.0, "mean_dice": 0.9}, "c": {"assd": float("nan")}}


class Checker(HTMLParser):
    """Collects text, tags and addresses, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data + "\n"


def rows(html: str) -> list[list[str]]:
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_everything_stands_in_the_page():
    png = png_bytes(np.zeros((4, 4, 3), dtype=np.uint8))
    html = build_report(
        title="A run",
        status="finished",
        info={"time": "2024-05-06T07:08:09+00:00", "device": "CPU", "seed": 7, "torch": "2.9"},
        config={"patch_size": [32, 48], "resume": None},
        epochs=EPOCHS,
        cases=CASES,
        pictures=[Picture("best", "case x", 0.9, png)],
    )
    page = Checker(html)
    for text in ("A run", "finished", "2024-05-06 07:08 · CPU · seed 7", "32, 48", "Best", "case x, Dice 0.900"):
        assert text in page.words
    assert "0.7, best 0.8 (epoch 2)" in page.words
    assert "1 h 02 min" in page.words
    assert page.tags.count("svg") == 5  # Dice; loss, crf; weights, learning rate
    assert ["Case", "Dice", "ASSD (mm)"] in rows(html)
    assert ["c", "–", "–"] in rows(html)
    assert ["Mean ± SD", "0.850 ± 0.071", "2.000 ± 1.414"] in rows(html)
    assert page.addresses == ["data:image/png;base64," + base64.b64encode(png).decode()]
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html


def test_text_is_escaped_everywhere():
    evil = "<script>alert('x')</script>&\""
    html = build_report(
        title=evil,
        status=evil,
        info={evil: evil, "device": evil, "time": evil},
        config={evil: {evil: [evil]}},
        epochs={1: {f"term/{evil}": 1.0, f"val/{evil}": 2.0, f"weight/{evil}": 1.0, "weight/b": 2.0}},
        cases={evil: {evil: 1.0}},
        pictures=[Picture(evil, evil, 0.5, b"")],
        note=evil,
    )
    assert "script" not in Checker(html).tags
    assert "<script" not in html.lower()


def test_an_empty_run_gives_a_page():
    page = Checker(build_report(title="Nothing yet"))
    assert "Nothing yet" in page.words
    assert not {"svg", "table", "figure", "h2"} & set(page.tags)


def test_a_failure_is_marked():
    assert 'class="status failed"' in build_report(title="t", status="failed in epoch 3: ValueError: x")
    assert 'class="status failed"' not in build_report(title="t", status="finished")


def step(engine: Engine, batch: float) -> dict:
    return {"loss": torch.tensor(batch), "terms": {"crf": torch.tensor(batch)}, "weights": {"crf": 1.0}}


def trainer_with_report(tmp_path) -> Engine:
    trainer = Engine(step)
    TermLog(tmp_path).attach(trainer)
    RunReport(tmp_path, "Toy", seed=3, config={"epochs": 2}).attach(trainer)
    return trainer


def status(tmp_path) -> str:
    return json.loads((tmp_path / "report.json").read_text())["status"]


def test_trainer_writes_after_every_epoch_and_at_the_end(tmp_path):
    trainer = trainer_with_report(tmp_path)
    seen = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: seen.append(status(tmp_path)))
    trainer.run([1.0], max_epochs=2)
    assert seen == ["running: epoch 1 of 2", "running: epoch 2 of 2"]
    assert status(tmp_path) == "finished"
    html = (tmp_path / "report.html").read_text()
    assert "seed 3" in html
    assert Checker(html).tags.count("svg") == 3


def test_exception_is_reported_and_raised_again(tmp_path):
    trainer = trainer_with_report(tmp_path)

    def fail(engine):
        if engine.state.epoch == 2:
            raise FloatingPointError("The loss is not finite")

    trainer.add_event_handler(Events.ITERATION_COMPLETED, fail)
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.run([1.0], max_epochs=3)
    assert status(tmp_path) == "failed in epoch 2: FloatingPointError: The loss is not finite"
    assert "The loss is not finite" in (tmp_path / "report.html").read_text()


def test_early_stop_is_told(tmp_path):
    trainer = trainer_with_report(tmp_path)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: engine.terminate())
    trainer.run([1.0], max_epochs=5)
    assert status(tmp_path) == "stopped early: epoch 2 of 5"


def test_evaluator_alone(tmp_path):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 2:6] = 1
    data = [{"image": mask, "label": mask}]
    evaluator = SupervisedEvaluator(torch.device("cpu"), data, torch.nn.Identity())
    CaseOverlays(tmp_path).attach(evaluator)
    RunReport(tmp_path, "Evaluation").attach(evaluator)
    evaluator.run()
    html = (tmp_path / "report.html").read_text()
    assert status(tmp_path) == "finished"
    assert ["Mean ± SD", "1.000"] in rows(html)
    assert Checker(html).tags.count("figure") == 1


def test_evaluator_that_fails(tmp_path):
    evaluator = SupervisedEvaluator(torch.device("cpu"), [{"image": torch.ones(1, 1)}], torch.nn.Linear(3, 1))
    RunReport(tmp_path, "Evaluation").attach(evaluator)
    with pytest.raises(RuntimeError, match="shapes"):
        evaluator.run()
    assert status(tmp_path).startswith("failed in epoch 1: RuntimeError")


def test_cases_come_from_monais_raw_files(tmp_path):
    (tmp_path / "val_mean_dice_raw.csv").write_text(
        "filename,class0,mean\n/d/a, b.nii.gz,0.8,0.8\n/d/c.nii.gz,nan,nan\n"
    )
    (tmp_path / "assd_raw.csv").write_text("filename,class0,class1,mean\n/d/a, b.nii.gz,1,3,2\n")
    cases = read_cases(tmp_path, tmp_path)
    assert cases["a, b"] == {"mean_dice": 0.8, "assd class0": 1, "assd class1": 3, "assd": 2}
    assert list(cases) == ["a, b", "c"]
    html = build_report(title="t", cases=cases)
    assert ["Case", "Dice", "ASSD (mm) class0", "ASSD (mm) class1", "ASSD (mm)"] in rows(html)


def test_equal_names_in_two_folders_stay_two_cases(tmp_path):
    (tmp_path / "dice_raw.csv").write_text("filename,class0,mean\n/p1/t2.nii,0.8,0.8\n/p2/t2.nii,0.6,0.6\n")
    assert list(read_cases(tmp_path, tmp_path)) == ["/p1/t2.nii", "/p2/t2.nii"]


def test_a_table_of_another_kind_becomes_a_remark(tmp_path):
    RunReport(tmp_path, "t").write("finished")
    (tmp_path / "metrics.csv").write_text("val_mean_dice,0.8\nval_assd,1\n")
    write_report(tmp_path)
    assert "is not a table of epochs" in (tmp_path / "report.html").read_text()


def test_a_page_that_cannot_be_made_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays" / "cases.json").write_text("{")
    trainer = trainer_with_report(tmp_path)
    trainer.run([1.0], max_epochs=1)
    assert trainer.state.epoch == 1
    assert "the report could not be written" in caplog.text


def test_command_line_makes_the_page_again(tmp_path, capsys):
    trainer_with_report(tmp_path).run([1.0], max_epochs=1)
    before = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    main([str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == before


def test_command_line_errors(tmp_path):
    with pytest.raises(SystemExit, match=r"has no report\.json"):
        main([str(tmp_path)])
    with pytest.raises(SystemExit, match="Usage"):
        main([])


def test_small_texts():
    assert [mean_sd([]), mean_sd([0.5]), mean_sd([1, 3])] == ["–", "0.500", "2.000 ± 1.414"]
    assert [duration(12.4), duration(200), duration(7500)] == ["12 s", "3 min 20 s", "2 h 05 min"]
