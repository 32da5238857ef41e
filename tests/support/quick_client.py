"""The program of ``quick_python``: has a process forked, hands signals on to it, and ends as it does."""

import json
import os
import signal
import socket
import sys

connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[0].removesuffix("python") + "socket")
folder = os.getcwd()  # noqa: PTH109 -- pathlib takes as long to import as all the rest
task = json.dumps({"words": sys.argv[1:], "environment": dict(os.environ), "folder": folder})
HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
text = f"{task}\n".encode()
sent = socket.send_fds(connection, [text], [0, 1, 2])
connection.sendall(text[sent:])
answers = connection.makefile()
process = int(answers.readline())
try:
    with open("/proc/self/comm", "w") as name:  # noqa: PTH123 -- as above
        name.write(str(process))  # for who wants to see that process
except OSError:
    pass  # only Linux has it
for number in HANDED_ON:
    signal.signal(number, lambda number, _: os.kill(process, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDED_ON)
code = int(answers.readline())
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
