"""The command `harmonica` by forks of one process that has imported the libraries already.

A job of a workflow is a process that imports torch and diffusers for seconds and computes for less, at the sizes of the
tests. Only other people's libraries are imported before the fork: each command imports our own code, from its folder.
The command as it is installed runs in the tests of the wheel and of Slurm.
"""

import atexit
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARIES = ("torch", "torch_fidelity", "diffusers.models.autoencoders.autoencoder_kl", "scipy.linalg", "pandas",
             "matplotlib.pyplot", "safetensors.torch", "tqdm", "PIL.Image")  # fmt: skip

CLIENT = '''#!{python} -IS
"""Hand a command to the process that forks; its exit status is this one's."""
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.connect({address!r})
    told = json.dumps({{"argv": sys.argv, "folder": os.getcwd(), "env": dict(os.environ)}}).encode()
    socket.send_fds(s, [len(told).to_bytes(8, "big")], [0, 1, 2])
    s.sendall(told)
    status = int(s.recv(16) or b"137")
sys.exit(status)
'''


class Forks:
    """The process, and a twin of this environment whose `harmonica` is a client of it: its folder of commands, and its
    interpreter `python`."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        twin, address = Path(self.folder.name), f"{self.folder.name}/socket"
        commands = twin / "bin"
        commands.mkdir()
        for name in ("lib", "pyvenv.cfg"):
            (twin / name).symlink_to(Path(sys.prefix) / name)
        for own in Path(sys.executable).parent.iterdir():
            if own.name not in ("harmonica", "snakemake"):
                (commands / own.name).symlink_to(own)
        self.commands, self.python = str(commands), str(commands / Path(sys.executable).name)
        snakemake = f'#!/bin/sh\nexec {self.python} -m snakemake "$@"\n'
        client = CLIENT.format(python=sys.executable, address=address)
        for name, text in (("harmonica", client), ("snakemake", snakemake)):
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, __file__, address], stdin=pipe, stdout=pipe, text=True)
        atexit.register(self.close)
        assert self.process.stdout.readline() == "ready\n"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


forks = functools.cache(Forks)  # one of each process of tests


def serve(address: str) -> None:
    """Answer commands until the standard input ends, as it does with the process of the tests."""
    for name in LIBRARIES:
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how handlers ended
    with socket.socket(socket.AF_UNIX) as own, selectors.DefaultSelector() as ready:
        own.bind(address)
        own.listen(16)
        ready.register(own, selectors.EVENT_READ)
        ready.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in ready.select():
                if key.fileobj is sys.stdin:
                    return
                client, _ = own.accept()
                if os.fork() == 0:
                    own.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    handle(client)
                    os._exit(0)
                client.close()


def handle(client: socket.socket) -> None:
    """Run one command and tell its exit status; a client that is gone ends it."""
    length, files, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as told:
        about = json.loads(told.read(int.from_bytes(length, "big")))
    worker = os.fork()
    if worker == 0:
        client.close()
        run(about, files)
    for f in files:
        os.close(f)
    with selectors.DefaultSelector() as ready:
        ended = os.pidfd_open(worker)
        ready.register(ended, selectors.EVENT_READ)
        ready.register(client, selectors.EVENT_READ)
        if all(key.fileobj is client for key, _ in ready.select()):
            os.kill(worker, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    try:
        client.sendall(str(status if status >= 0 else 128 - status).encode())
    except OSError:
        pass  # the client is gone


def run(about: dict, files: list[int]) -> None:
    """Be the command."""
    os.setpgid(0, 0)
    for own, given in enumerate(files):
        os.dup2(given, own)
        os.close(given)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    os.chdir(about["folder"])
    os.environ.clear()
    os.environ.update(about["env"])
    sys.argv = about["argv"]
    own_folder = str(Path(__file__).parent)
    sys.path[:] = about["env"].get("PYTHONPATH", "").split(os.pathsep) + [p for p in sys.path if p != own_folder]
    status: object = 1
    try:
        from harmonica.cli import main

        status = main()
    except SystemExit as e:
        status = e.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if status is not None and not isinstance(status, int):
            os.write(2, f"{status}\n".encode())
            status = 1
        os._exit(status or 0)


if __name__ == "__main__":
    serve(sys.argv[1])
