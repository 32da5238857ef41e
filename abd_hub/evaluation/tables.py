"""Reports as text tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from abd_hub.core.errors import visible
from abd_hub.core.records import EvalReport, Rate, TriggerReport
from abd_hub.evaluation.rates import wilson


def format_reports(rows: Sequence[tuple[str, EvalReport]]) -> str:
    """Returns ``format_table``, then the tables of further splits and of classes, if the reports have any."""
    parts = [format_table(rows)]
    splits = [(name, report) for name, report in rows if report.corrupted]
    if splits:
        parts.append(format_splits(splits))

    parts += _control_lines(rows)
    parts += [f"{name}, by true class\n{format_classes(report)}" for name, report in rows if report.per_class]
    return "\n\n".join(parts)


def _control_lines(rows: Sequence[tuple[str, EvalReport]]) -> list[str]:
    """Returns one line about the control, which all rows of a table share."""
    accuracy = next((report.control_accuracy for _, report in rows if report.control_accuracy), None)
    if accuracy is None:
        return []
    return [
        "control: how often a model without the backdoor chooses the target on the same triggered images; "
        f"its clean accuracy is {format_rate(accuracy)}, n {accuracy.n}"
    ]


def format_table(rows: Iterable[tuple[str, EvalReport]]) -> str:
    """Returns a plain table of (name, report) rows: one line for each trigger, fractions with 95 % intervals.

    The column after the ASR shows the control's rate, if any report has a control.
    """
    rows = list(rows)
    controlled = any(attacked.control for _, report in rows for attacked in report.triggers)
    control = ["control"] if controlled else []
    lines = [["model", "accuracy", "n", "trigger", "target", "ASR", *control, "robust accuracy", "n"]]
    for name, report in rows:
        start = [name, format_rate(report.accuracy), str(report.accuracy.n)]
        for attacked in report.triggers:
            beside = [format_rate(attacked.control) if attacked.control else "-"] if controlled else []
            end = [*beside, format_rate(attacked.robust_accuracy), str(attacked.asr.n)]
            lines.append([*start, _name(attacked), str(attacked.target), format_rate(attacked.asr), *end])
            start = ["", "", ""]

        if not report.triggers:
            lines.append([*start, *("-" for _ in lines[0][3:])])
    return format_aligned(lines)


def _name(attacked: TriggerReport) -> str:
    """Returns the trigger's name; a trigger on the network's input says so."""
    return f"{attacked.trigger}, on input" if attacked.trigger_on == "input" else attacked.trigger


def format_splits(rows: Iterable[tuple[str, EvalReport]]) -> str:
    """Returns a plain table of clean accuracy: one line for each further split of each (name, report) row."""
    lines = [["model", "split", "accuracy", "n"]]
    for name, report in rows:
        for index, split in enumerate(report.corrupted or ()):
            start = "" if index else name
            lines.append([start, split.data.split, format_rate(split.accuracy), str(split.accuracy.n)])
    return format_aligned(lines)


def format_classes(report: EvalReport) -> str:
    """Returns a table such as ``format_table`` for each class, from a report with ``per_class``."""
    lines = [["class", "accuracy", "n", "trigger", "target", "ASR", "robust accuracy", "n"]]
    for row in report.per_class or ():
        start = [row.name, _share(row.correct, row.n), str(row.n)]
        for attacked, counts in zip(report.triggers, row.attacks, strict=True):
            end = [_share(counts.hits, counts.n), _share(counts.robust, counts.n), str(counts.n)]
            lines.append([*start, _name(attacked), str(attacked.target), *end])
            start = ["", "", ""]

        if not row.attacks:
            lines.append([*start, *("-" for _ in lines[0][3:])])
    return format_aligned(lines)


def format_aligned(lines: Sequence[Sequence[str]]) -> str:
    """Returns a plain table of rows of cells, the head first, with aligned columns and a rule below it."""
    shown = [[visible(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in shown) for column in range(len(shown[0]))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [shown[0], rule, *shown[1:]]
    )


def _share(count: int, n: int) -> str:
    return format_rate(wilson(count, n)) if n else "-"


def format_rate(rate: Rate) -> str:
    """Returns the rate with three digits and its interval."""
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
