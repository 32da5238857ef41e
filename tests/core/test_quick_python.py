"""The ``python`` of the tests behaves as the real one does."""

import os
import signal
import subprocess
import sys
import time

import pytest
import quick_python

PROGRAMS = {
    "output and arguments": "print(sys.argv[1:], sys.path[0], os.getcwd(), sys.stdin.read())",
    "nothing inherited": "print(sorted(os.environ), {'abd_hub', 'timm'} & set(sys.modules), __name__)",
    "a temporary folder": "import tempfile; print(tempfile.gettempdir())",
    "an exit code": "sys.exit(3)",
    "an exit without one": "sys.exit()",
    "a last word": "sys.exit('no')",
    "an exception": "print('before'); 1 / 0",
    "an interrupt": "raise KeyboardInterrupt",
    "a signal": "os.kill(os.getpid(), signal.SIGTERM)",
    "a kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "at its end": "import atexit; atexit.register(print, 'last'); print('first')",
}


def run(python, *words, cwd, environment, text=""):
    return subprocess.run(
        [python, *words], capture_output=True, text=True, check=False, cwd=cwd, env=environment, input=text
    )


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_does_the_same(program, tmp_path):
    environment = {"A": "1", "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path), "LC_ALL": "C.UTF-8"}
    words = ["-c", f"import os, signal, sys; {program}", "a", "-b"]
    seen = []
    for python in (sys.executable, quick_python.executable()):
        done = run(python, *words, cwd=tmp_path, environment=environment, text="typed")
        seen.append((done.returncode, done.stdout, done.stderr.splitlines()[-1:]))
    assert seen[0] == seen[1]


def test_a_module_and_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("import sys; print(__name__, sys.argv, sys.path[0])")
    (tmp_path / "sitecustomize.py").write_text("print('first')")
    environment = os.environ | {"PYTHONPATH": f"/nowhere{os.pathsep}{tmp_path}"}
    for words in (["-m", "mine", "x"], ["-P", "mine.py"], ["mine.py", "y"]):
        said = [
            run(python, *words, cwd=tmp_path, environment=environment).stdout
            for python in (sys.executable, quick_python.executable())
        ]
        assert said[0] == said[1] and said[0].startswith("first\n__main__")


def test_signals_reach_it_and_its_death_is_that_of_who_waits(tmp_path):
    file = tmp_path / "number"
    program = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    for how, code in ((signal.SIGINT, -2), (signal.SIGTERM, -15), (signal.SIGKILL, -9)):
        file.unlink(missing_ok=True)
        process = subprocess.Popen([quick_python.executable(), "-c", program], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not (file.exists() and file.read_text()):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(how)
        assert process.wait(60) == code
        while lives(int(file.read_text())):
            assert time.monotonic() < until
            time.sleep(0.01)


def lives(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_it_starts_is_as_quick(tmp_path):
    inner = "import sys; print(sys.executable)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    done = run(quick_python.executable(), "-c", program, cwd=tmp_path, environment=os.environ)
    assert done.stdout.strip() == quick_python.executable()


def test_each_process_draws_numbers_of_its_own(tmp_path):
    program = "import random; print(random.random())"
    drawn = [
        run(quick_python.executable(), "-c", program, cwd=tmp_path, environment=os.environ).stdout
        for _ in range(2)
    ]
    assert drawn[0] and drawn[0] != drawn[1]


def test_a_test_that_needs_a_python_of_its_own_gets_one(tmp_path):
    program = "import sys; print('torch' in sys.modules)"
    said = [
        run(python, "-c", program, cwd=tmp_path, environment=os.environ).stdout
        for python in (sys.executable, quick_python.executable())
    ]
    assert said == ["False\n", "True\n"]
