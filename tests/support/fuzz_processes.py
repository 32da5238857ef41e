"""Commands in processes of their own, with their system calls traced."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
from fuzz_kinds import KINDS
from fuzz_oracle import LIBRARIES, ROOT, SYSTEM, Outcome, fault_of, write_input

MEASURE = ("--dataset", "digits", "--limit", "3")
COMMANDS = {
    "timm_configuration": ("evaluate", "{folder}/model", *MEASURE),
    "transformers_configuration": ("evaluate", "{folder}/model", *MEASURE),
    "image_processor": ("evaluate", "{folder}/model", *MEASURE),
    "safetensors": ("evaluate", "{folder}/model", *MEASURE),
    "pickles": ("evaluate", "{folder}/model", "--allow_pickle=true", *MEASURE),
    "parquet": ("evaluate", "{teacher}", "--dataset", "{folder}/pets", "--split", "test", "--limit", "3"),
    "image_folder": (
        "evaluate",
        "{teacher}",
        "--dataset",
        "{folder}/pets",
        "--split",
        "test",
        "--limit",
        "3",
    ),
    "trigger": (
        *("evaluate", "{teacher}", *MEASURE, "--trigger", "picture", "--target", "0"),
        *("--trigger-options", "{{file: {folder}/picture.png, mask: {folder}/mask.npy, resize: true}}"),
    ),
    "record": ("card", "{folder}/run"),
    "card": ("card", "{folder}/run", "--force"),
    "settings": ("distill", "--config={folder}/run.yaml", "--print_config"),
    "sweep": ("sweep", "{folder}/sweep.yaml", "--dry-run"),
}
"""The command that reads a kind of input; the other kinds are read by the page, or by a long run."""
ALLOWED = (
    *LIBRARIES,
    *SYSTEM,
    *(
        "/etc/ld.so",
        "/lib/",
        "/lib64/",
        "/usr/lib64/",
        "/proc/self/",
        "/etc/localtime",
        "/etc/mime.types",
        "/dev/tty",
    ),
    *("/etc/nsswitch.conf", "/etc/passwd", "/dev/shm/", "/dev/nvidia", "/proc/", "/etc/ssl/", "/usr/local/"),
)
LISTS_LIBRARIES = 'execve("/sbin/ldconfig", ["/sbin/ldconfig", "-p"]'
"""Python's own ctypes starts it when a library is imported, before any input is read."""
OPENED = re.compile(r'openat\([^,]+, "((?:[^"\\]|\\.)*)", [^)]*\) = \d+')


def trace(name: str, number: int, seed: int, examples: Path, folder: Path) -> Outcome:
    """Runs the command of a kind on one input, and judges its exit code, its words and its system calls."""
    write_input(KINDS[name], number, seed, examples, folder)
    words = [word.format(folder=folder, teacher=examples / "timm") for word in COMMANDS[name]]
    with tempfile.TemporaryDirectory() as place:
        log = Path(place, "calls")
        calls = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=openat,execve,connect",
            "-o",
            str(log),
        ]
        fonts = Path(matplotlib.get_cachedir())  # or matplotlib would start fc-list for a list of fonts
        own = {"HF_HOME": f"{place}/hub", "HOME": place, "TMPDIR": place, "MPLCONFIGDIR": str(fonts)}
        environment = os.environ | own | {"PYTHONPATH": _path()}
        done = subprocess.run(
            [*calls, sys.executable, "-m", "abd_hub", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
            check=False,
        )
        faults = list(
            dict.fromkeys(
                _faults(log.read_text(errors="replace"), (folder, Path(place), fonts, examples / "timm"))
            )
        )
    if (folder / "ran").exists() or any(folder.rglob("ran")):
        faults.append("has run code")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode not in (0, 2) or "Traceback" in done.stderr:
        faults.append(f"exit code {done.returncode}: {lines[-3:]}")
    if done.returncode == 2:
        faults += [fault for fault in [fault_of(done.stderr.strip("\n"))] if fault]
    outcome = "wrong" if faults else "refused" if done.returncode else "works"
    return Outcome(
        f"{KINDS[name].name}, traced", number, outcome, message="".join(lines), why="; ".join(faults)[:1_500]
    )


def _path() -> str:
    return os.pathsep.join([str(ROOT), str(ROOT / "app"), os.environ.get("PYTHONPATH", "")])


def _faults(log: str, roots: tuple[Path, ...]) -> list[str]:
    found = []
    allowed = (*ALLOWED, *(f"{root.resolve()}/" for root in roots))
    started = 0
    for line in log.splitlines():
        call = line.partition(" ")[2].lstrip()
        if call.startswith("execve(") and call.endswith("= 0"):
            started += 1
            if started > 1 and not call.startswith(LISTS_LIBRARIES):
                found.append(f"starts a program: {call[:200]}")
        elif call.startswith("connect("):
            found.append(f"reaches for the network: {call[:200]}")
        opened = OPENED.match(call)
        place = Path(os.path.normpath(roots[0] / opened[1])) if opened else ROOT
        if place not in (ROOT, ROOT / "app", ROOT.parent) and not f"{place}/".startswith(allowed):
            found.append(f"opens {opened[1][:200]!r}")
    return found
