"""Two real processes that find each other, as torchrun starts them."""

import socket

import forked


def two_processes(*words):
    """Runs ``python *words`` as two processes; what each has written."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    places = [shared | {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"} for rank in ("0", "1")]
    done = forked.run_together([words, words], places)
    assert not any(process.returncode for process in done), [process.stderr[:6000] for process in done]
    return done


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
