"""A `retouch` to put on the PATH that starts in a tenth of a second: a fork of a process that has imported everything.

Each command is a process of its own, with the arguments, environment and folder of whoever starts it.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CLIENT = """
import json, os, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as to:
    to.sendall(json.dumps([sys.argv[1:] + {more}, os.getcwd(), dict(os.environ)]).encode())
    to.shutdown(socket.SHUT_WR)
    sys.exit(int(to.recv(16) or 1))
"""


@contextmanager
def started_fast(folder: Path, more: Sequence[str] = ()) -> Iterator[Path]:
    """The command, in this folder.

    Args:
        more: arguments that are added to those of each call.
    """
    command = [sys.executable, "-m", "tests.starter"]
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=alone, cwd=Path(__file__).parents[1]) as starter:
        assert starter.stdout is not None
        port = int(starter.stdout.readline())
        client, shell = folder / "client.py", folder / "retouch"
        client.write_text(CLIENT.format(port=port, more=list(more)))
        shell.write_text(f"#!/bin/sh\nexec '{sys.executable}' -IS '{client}' \"$@\"\n")
        shell.chmod(0o755)
        try:
            yield shell
        finally:
            starter.kill()


def main() -> None:
    import kornia.color  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import timm  # noqa: F401
    import torch
    import wandb.apis.public  # noqa: F401

    import pretrain.seeds  # noqa: F401
    import retouch  # noqa: F401
    from retouch.cli import main as run

    torch.set_num_threads(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            asking, _ = server.accept()
            with asking:
                args, folder, environment = json.load(asking.makefile("rb"))
                child = os.fork()
                if not child:
                    os.chdir(folder)
                    os.environ.clear()
                    os.environ.update(environment)
                    code = run(args)
                    atexit._run_exitfuncs()  # W&B has one
                    sys.stdout.flush()
                    os._exit(code)  # the interpreter would take two seconds to tidy up
                _, status = os.waitpid(child, 0)
                asking.sendall(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
