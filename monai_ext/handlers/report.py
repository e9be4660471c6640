# SPDX-License-Identifier: Apache-2.0
"""One HTML page per run: how it went, how good it is, what it looks like, and how to repeat it.

``python -m monai_ext.handlers.report <output_dir>`` makes the page again from the files in the folder.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

from monai_ext.handlers.checkpoint import is_main_process
from monai_ext.handlers.files import write_atomically
from monai_ext.handlers.provenance import run_info
from monai_ext.handlers.report_data import Cases, Epochs, Picture, read_cases, read_pictures
from monai_ext.handlers.report_page import facts_table, page
from monai_ext.handlers.report_sections import cases_table, curves, gallery, header, label, summary
from monai_ext.handlers.term_log import is_scalar, read_rows

logger = logging.getLogger(__name__)

FACTS = "report.json"


class RunReport:
    """Writes ``report.html``: curves, overlays, a table of cases, the configuration and the environment of a run.

    On a trainer the page is made after every epoch and at the end, on an evaluator at the end; also when the run stops
    by an exception, which is then raised again. List it before MONAI's ``StatsHandler``, which ends the handling of an
    exception. The page is made of the files in ``output_dir``: ``metrics.csv`` (:class:`TermLog`), ``overlays/``
    (:class:`CaseOverlays`) and ``<metric>_raw.csv`` (``monai.handlers.MetricsSaver`` with ``metrics=None``, as it
    would otherwise overwrite ``metrics.csv``); what is missing is left out. A page that cannot be made is logged and
    does not stop the run.

    Args:
        output_dir: the run's folder.
        title: the heading.
        seed: shown with the versions.
        config: the values worth showing, by name.
        cases_dir: folder of the ``<metric>_raw.csv`` files, relative to ``output_dir``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        title: str,
        *,
        seed: int | None = None,
        config: Mapping[str, Any] | None = None,
        cases_dir: str = ".",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.facts = {"title": title, "config": dict(config or {}), "cases_dir": str(cases_dir), "info": run_info(seed)}

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer, or with an evaluator that runs on its own."""
        if not is_main_process():
            return
        if not isinstance(engine, Evaluator):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._progress)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def write(self, status: str) -> None:
        """Makes the page from what is in the folder; ``status`` stands below the title."""
        try:
            facts = json.dumps({**self.facts, "status": status}, indent=1, default=str)
            write_atomically(self.output_dir / FACTS, facts)
            write_report(self.output_dir)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s: the report could not be written: %r", self.output_dir, error)

    def _progress(self, engine: Engine) -> None:
        self.write(f"running: epoch {engine.state.epoch} of {engine.state.max_epochs}")

    def _finish(self, engine: Engine) -> None:
        epoch, wanted = engine.state.epoch, engine.state.max_epochs or 0
        early = not isinstance(engine, Evaluator) and epoch < wanted
        if isinstance(engine, Evaluator):
            self.facts["pooled"] = pooled_metrics(engine)
        self.write(f"stopped early: epoch {epoch} of {wanted}" if early else "finished")

    def _fail(self, engine: Engine, error: Exception) -> None:
        self.write(f"failed in epoch {engine.state.epoch}: {type(error).__name__}: {error}")
        raise error


def pooled_metrics(engine: Engine) -> dict[str, float]:
    """An evaluation's scalar metrics that no case has a share in: of all cases together."""
    details = getattr(engine.state, "metric_details", {})
    scalars = {name: value for name, value in engine.state.metrics.items() if name not in details and is_scalar(value)}
    return {name.removeprefix("val_"): float(value) for name, value in scalars.items()}


def build_report(
    *,
    title: str,
    status: str = "",
    info: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    epochs: Epochs | None = None,
    cases: Cases | None = None,
    pooled: Mapping[str, float] | None = None,
    pictures: Sequence[Picture] = (),
    note: str = "",
) -> str:
    """The page as HTML that refers to no other file.

    Args:
        title: the heading.
        status: how the run stands; one that begins with "failed" is marked.
        info: what :func:`run_info` returned.
        config: values by name.
        epochs: columns of ``metrics.csv`` for each epoch.
        cases: for each case the value of each metric.
        pooled: metrics of all cases together.
        pictures: overlays.
        note: something that the reader must know, such as a table that could not be read.
    """
    epochs, cases, info = epochs or {}, cases or {}, info or {}
    sections = [
        ("Validation", curves(epochs, "val")),
        ("Loss", curves(epochs, "loss", "term")),
        ("Schedules", curves(epochs, "weight", "lr", together=True)),
        ("Cases", gallery(pictures)),
        ("Metrics of all cases together", facts_table({label(n): f"{v:.3f}" for n, v in (pooled or {}).items()})),
        ("Metrics of each case", cases_table(cases)),
        ("Configuration", facts_table(config or {})),
        ("Environment", facts_table({name.replace("_", " "): value for name, value in info.items()})),
    ]
    lead = header(status=status, info=info, note=note) + summary(epochs, cases)
    return page(title=title, lead=lead, sections=sections)


def write_report(output_dir: str | Path) -> Path:
    """Makes ``report.html`` from the files in a run's folder and returns its path.

    Raises:
        FileNotFoundError: no run has written its ``report.json`` there.
    """
    folder = Path(output_dir)
    if not (folder / FACTS).exists():
        raise FileNotFoundError(f"{folder} has no {FACTS}, expected the output_dir of a run with a RunReport handler.")
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    epochs: Epochs = {}
    note = ""
    try:
        epochs = read_rows(folder / "metrics.csv")
    except ValueError as error:
        note = str(error)
    html = build_report(
        title=facts["title"],
        status=facts["status"],
        info=facts["info"],
        config=facts["config"],
        epochs=epochs,
        cases=read_cases(folder / facts["cases_dir"], folder),
        pooled=facts.get("pooled"),
        pictures=read_pictures(folder),
        note=note,
    )
    write_atomically(folder / "report.html", html)
    return folder / "report.html"


def main(arguments: Sequence[str]) -> None:
    """Command line: the folder of a run."""
    if len(arguments) != 1:
        raise SystemExit("Usage: python -m monai_ext.handlers.report <output_dir>")
    try:
        print(write_report(arguments[0]))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main(sys.argv[1:])
