"""Writes the results of a sweep: a JSON file for each run, a Markdown table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from abd_hub.core import files
from abd_hub.core.record_file import read_any_record
from abd_hub.core.records import EvalReport, Rate, RunRecord, TeacherRecord, TriggerReport
from abd_hub.evaluation.tables import format_rate
from abd_hub.report.figures import save_accuracy_asr_panels
from abd_hub.sweep.config import Sweep, SweepRun
from abd_hub.sweep.names import label

TABLE_FILE, PICTURE_FILE = "results.md", "results.png"
_DONE = "done"


@dataclass(frozen=True)
class _Group:
    """Holds the runs that differ only in the seed, in the order of the file."""

    runs: tuple[SweepRun, ...]
    """Holds all of them."""
    records: tuple[RunRecord | TeacherRecord, ...]
    """Holds the records of the finished runs."""

    def reports(self) -> list[EvalReport]:
        """Returns the reports of the students, or of the teachers if the sweep trained teachers."""
        reports = [r.report if isinstance(r, TeacherRecord) else r.student_report for r in self.records]
        return [report for report in reports if report is not None]

    def teachers(self) -> list[EvalReport]:
        """Returns the reports of the distilled teachers."""
        return [r.teacher_report for r in self.records if isinstance(r, RunRecord) and r.teacher_report]


def write_tables(root: Path, plan: Sweep, runs: Sequence[tuple[str, SweepRun, str, str]]) -> None:
    """Writes results/NAME.json of each finished run, results.md, and results.png if an attack was measured.

    Args:
        root: folder of the sweep.
        plan: the sweep.
        runs: (name, run, state, reason of a failure) of each run.
    """
    records: dict[str, RunRecord | TeacherRecord] = {}
    for name, run, state, _ in runs:
        if state == _DONE:
            record = read_any_record(root / "runs" / name)
            text = (root / "runs" / name / files.RECORD_FILE).read_text(encoding="utf-8")
            _write_if_new(root / "results" / f"{name}.json", text)
            records[run.digest] = record

    groups = _groups([run for _, run, _, _ in runs], records)
    files.write_text(root / TABLE_FILE, _page(plan, groups, runs))

    panels = _panels([group for group in groups if group.records])
    if panels:
        with files.atomic_path(root / PICTURE_FILE) as temporary:
            save_accuracy_asr_panels(panels, temporary)


def _write_if_new(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def _groups(runs: Sequence[SweepRun], records: dict[str, RunRecord | TeacherRecord]) -> list[_Group]:
    together: dict[str, list[SweepRun]] = {}
    for run in runs:
        together.setdefault(run.group(), []).append(run)
    return [
        _Group(tuple(members), tuple(records[run.digest] for run in members if run.digest in records))
        for members in together.values()
    ]


def _page(plan: Sweep, groups: Sequence[_Group], runs: Sequence[tuple[str, SweepRun, str, str]]) -> str:
    done = sum(state == _DONE for _, _, state, _ in runs)
    parts = [f"# {Path(plan.file.output_dir).resolve().name}", f"{done} of {len(runs)} runs are finished."]

    finished = [group for group in groups if group.records]
    if finished:
        parts += [_table(finished), _legend(finished)]
    if _panels(finished):
        parts.append(f"![Accuracy against attack success rate]({PICTURE_FILE})")
        parts.append(
            "Points are means over seeds; bars reach from the lowest to the highest end of their intervals."
        )

    left = [
        f"- {name}: {state}{f', {reason}' if reason else ''}"
        for name, _, state, reason in runs
        if state != _DONE
    ]
    if left:
        parts.append("Not in the table:\n\n" + "\n".join(left))
    return "\n\n".join(parts) + "\n"


def _table(groups: Sequence[_Group]) -> str:
    names = list(dict.fromkeys(n for group in groups for n in group.runs[0].varying if n != "seed"))
    students = any(group.teachers() for group in groups)

    head = [*names, "attack", "seeds", "accuracy", "ASR", "ASR of the control"]
    head += ["accuracy of the teacher", "ASR of the teacher"] if students else []
    idle = any(_idle(group) for group in groups)
    head += ["defenses not active"] if idle else []

    rows = []
    for group in groups:
        varying = group.runs[0].varying
        first = [label(name, varying[name]) if name in varying else "" for name in names]
        for place in range(max((len(report.triggers) for report in group.reports()), default=0) or 1):
            cells = [*first, *_cells(group, place, students), *([_idle(group)] if idle else [])]
            rows.append([cell.replace("|", "\\|") for cell in cells])

    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(group: _Group, place: int, students: bool) -> list[str]:
    """Returns name, seeds and rates of the attack at ``place`` in the reports."""
    reports, teachers = group.reports(), group.teachers()
    attacks, taught = _attacks(reports, place), _attacks(teachers, place)
    cells = [
        _title(attacks[0]) if attacks else "",
        _seeds(group),
        _rates([report.accuracy for report in reports]),
        _rates([attack.asr for attack in attacks]),
        _rates([attack.control for attack in attacks if attack.control]),
    ]
    if students:
        cells += [_rates([report.accuracy for report in teachers]), _rates([attack.asr for attack in taught])]
    return cells


def _attacks(reports: Sequence[EvalReport], place: int) -> list[TriggerReport]:
    return [report.triggers[place] for report in reports if place < len(report.triggers)]


def _title(attack: TriggerReport) -> str:
    options = ", ".join(f"{name} {value}" for name, value in attack.options.items())
    return f"{attack.trigger} to label {attack.target}" + (f" ({options})" if options else "")


def _seeds(group: _Group) -> str:
    text = ", ".join(str(record.seed) for record in group.records)
    return text if len(group.records) == len(group.runs) else f"{text} (of {len(group.runs)})"


def _rates(rates: Sequence[Rate]) -> str:
    """Returns one rate with its interval, or the mean of different rates and all of them by seed."""
    if not rates:
        return ""
    if all(rate == rates[0] for rate in rates):
        return format_rate(rates[0])
    each = ", ".join(f"{rate.value:.3f}" for rate in rates)
    return f"**{mean(rate.value for rate in rates):.3f}** ({each})"


def _idle(group: _Group) -> str:
    """Returns the defenses that changed no gradient, with the number of their runs."""
    counts: dict[str, int] = {}
    for record in group.records:
        for report in record.defenses if isinstance(record, RunRecord) else ():
            counts[report.name] = counts.get(report.name, 0) + (not report.active)

    return ", ".join(f"{name} ({n} of {len(group.records)})" for name, n in counts.items() if n)


def _legend(groups: Sequence[_Group]) -> str:
    counts = sorted({report.accuracy.n for group in groups for report in group.reports()})
    over = f" Accuracy is over {', '.join(map(str, counts))} images." if counts else ""
    return f"Means over the seeds, with all values in brackets; a single value has its 95 % interval.{over}"


def _panels(groups: Sequence[_Group]) -> list[tuple[str, list[tuple[str, Rate, Rate]]]]:
    """Returns a panel for each attack and data set, with the teachers and every group measured on it."""
    panels: dict[str, dict[str, tuple[str, Rate, Rate]]] = {}
    several = len({_teacher(group) for group in groups}) > 1

    for group in groups:
        reports, teachers = group.reports(), group.teachers()
        for place in range(len(reports[0].triggers) if reports else 0):
            attacks = _attacks(reports, place)
            points = panels.setdefault(f"{_title(attacks[0])}, {_data(group)}", {})
            if teachers:
                name = f"teacher {_teacher(group)}" if several else "teacher"
                points.setdefault(name, _point(name, teachers, _attacks(teachers, place)))
            points[group.runs[0].group()] = _point(_name(group), reports, attacks)

    return [(title, list(points.values())) for title, points in panels.items()]


def _point(
    name: str, reports: Sequence[EvalReport], attacks: Sequence[TriggerReport]
) -> tuple[str, Rate, Rate]:
    return name, _over_seeds([r.accuracy for r in reports]), _over_seeds([a.asr for a in attacks])


def _over_seeds(rates: Sequence[Rate]) -> Rate:
    """Returns the mean, with bars that hold the interval of every seed."""
    return Rate(
        value=mean(rate.value for rate in rates),
        count=sum(rate.count for rate in rates),
        n=sum(rate.n for rate in rates),
        low=min(rate.low for rate in rates),
        high=max(rate.high for rate in rates),
    )


def _name(group: _Group) -> str:
    record = group.records[0]
    return group.runs[0].label() or (
        record.method if isinstance(record, RunRecord) else record.model.architecture
    )


def _teacher(group: _Group) -> str:
    record = group.records[0]
    return label("", record.teacher.id) if isinstance(record, RunRecord) else ""


def _data(group: _Group) -> str:
    record = group.records[0]
    return label("", record.data.id) if record.data else ""
