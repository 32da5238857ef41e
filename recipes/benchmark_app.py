"""Measures the app: its start, its first answer, and its answers to visitors who come at once.

    python recipes/benchmark_app.py --visitors 4 --answers 25 --json app.json

The command starts ``abd-hub app`` and waits for its page. Each visitor is a process and sends one request
after another, each with another trigger, so that no answer repeats the last one. The server's processor
seconds and the load of the machine stand beside the times, because a busy machine lengthens the times.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

TRIGGERS = ("badnet_sq", "blend", "sig", "wanet", "bpp")


def measure(visitors: int, answers: int, folders: list[str]) -> dict[str, Any]:
    before = os.getloadavg()[0]
    started = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "abd_hub", "app", "--no-browser", *folders], stdout=subprocess.PIPE, text=True
    )
    try:
        return _measure(server, started, visitors, answers) | {"load_before": before}
    finally:
        server.terminate()
        server.wait()


def _measure(server: subprocess.Popen[str], started: float, visitors: int, answers: int) -> dict[str, Any]:
    address = _address(server)
    with urllib.request.urlopen(address) as page:
        page.read()
    shown = time.perf_counter() - started
    start_processor = _processor_seconds(server.pid)
    first = visit(address, 0, 1)[0]
    answered = time.perf_counter() - started
    with ProcessPoolExecutor(visitors) as pool:
        # All visitors have done their imports before the first of them sends a request.
        list(pool.map(_ready, range(visitors)))
        processor = _processor_seconds(server.pid)
        begun = time.perf_counter()
        runs = pool.map(visit, [address] * visitors, range(visitors), [answers] * visitors)
        times = sorted(seconds for run in runs for seconds in run)
        wall = time.perf_counter() - begun
    return {
        "visitors": visitors,
        "answers": len(times),
        "page_seconds": shown,
        "page_processor_seconds": start_processor,
        "first_answer_seconds": first,
        "first_answer_after_start_seconds": answered,
        "median_seconds": statistics.median(times),
        "p95_seconds": times[min(len(times) - 1, int(0.95 * len(times)))],
        "answers_per_second": len(times) / wall,
        "processor_seconds_an_answer": (_processor_seconds(server.pid) - processor) / len(times),
        "resident_mb": _resident_mb(server.pid),
        "load_after": os.getloadavg()[0],
        "processors": os.cpu_count(),
    }


def visit(address: str, visitor: int, answers: int) -> list[float]:
    """Returns the seconds of each answer to one visitor."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, download_files=False)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(answers):
            file = Path(folder) / f"{turn}.png"
            Image.new("RGB", (8, 8), (10 * visitor, 9 * turn % 256, 100)).save(file)
            trigger = TRIGGERS[(turn + visitor) % len(TRIGGERS)]
            begun = time.perf_counter()
            client.predict(handle_file(str(file)), trigger, 0, None, None, None, api_name="/predict")
            times.append(time.perf_counter() - begun)
    return times


def _ready(_visitor: int) -> None:
    import gradio_client

    assert gradio_client.Client
    time.sleep(0.5)  # long enough that no process takes two of these tasks


def _address(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    line = server.stdout.readline()
    found = re.search(r"http://\S+", line)
    if found is None:
        raise SystemExit(f"the app did not start: {line}")
    threading.Thread(target=server.stdout.read, daemon=True).start()
    return found[0]


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the app.")
    parser.add_argument("folders", nargs="*", help="Show these models; the bundled ones by default.")
    parser.add_argument("--visitors", type=int, default=4)
    parser.add_argument("--answers", type=int, default=25, help="Let each visitor send so many requests.")
    parser.add_argument("--json", metavar="FILE", help="Write the numbers to this file too.")
    chosen = parser.parse_args()
    found = measure(chosen.visitors, chosen.answers, chosen.folders)
    for name, value in found.items():
        print(f"{name:36}{value:.3f}" if isinstance(value, float) else f"{name:36}{value}")
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
