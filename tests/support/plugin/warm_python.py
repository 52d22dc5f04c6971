"""Python that starts with torch and transformers imported, for tests that run pytest many times.

Most of a run of the plugin on a stub is imports, and as much again in each of its workers. A server
imports once and forks for every run, workers included; the processes are as separate as ever. That
much is imported before the plugin's first line is the one difference. So Python itself runs what
asks for it, what is started in an environment that differs in what is read on import, and
everything where ``ROBUSTNESS_COLD_TESTS`` is set, as in ``tox -e pytest90``.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from pathlib import Path
from typing import Any, NoReturn

COLD = "ROBUSTNESS_COLD_TESTS"
READ_ON_IMPORT = (
    COLD, "CUDA", "HF_", "LANG", "LC_", "MKL", "OMP_", "PYTHON", "TORCH", "TRANSFORMERS", "XDG_",
)  # fmt: skip
"""What the names of environment variables begin with that libraries read when they are imported."""
PRELOADED = (
    "hypothesis.strategies",  # its plugin imports it in every run
    "pydantic",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
)


# --- the test's side -----------------------------------------------------------------------------


@functools.cache
def warm_python() -> str:
    """An executable to run in place of ``sys.executable``; the server behind it ends with us."""
    if sys.platform != "linux" or os.environ.get(COLD):
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="warm-"))  # a socket's path must be short
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")
    }
    known = {
        "python": sys.executable,
        "prefixes": READ_ON_IMPORT,
        "environment": {
            name: text
            for name, text in environment.items()
            if name.startswith(READ_ON_IMPORT) and name != "PYTHONPATH"
        },
    }
    (folder / "server.json").write_text(json.dumps(known))
    client = folder / "python"
    source = Path(__file__).with_name("warm_client.py").read_text()
    client.write_text(f"#!{sys.executable} -IS\n{source}")
    client.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, str(client), str(listener.fileno())],
            env={**environment, "HOME": str(folder)},
            cwd=folder,
            stdin=subprocess.PIPE,  # its end is the server's
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
    atexit.register(_end, server, folder)
    return str(client)


def _end(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


# --- the server's side ---------------------------------------------------------------------------


def serve(executable: str, listener: socket.socket) -> list[str]:
    """Fork for each request; returns in the child alone, with what it is to run."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for source in (listener, woken, 0):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:  # its end: nobody is there to ask for anything
                    for pid in running:
                        os.kill(pid, signal.SIGKILL)
                    sys.exit()
                elif key.fileobj == woken:
                    os.read(woken, 4096)
                    _reap(running, selector)
                elif key.fileobj is listener:
                    connection, _ = listener.accept()
                    request, standard = _request(connection)
                    if request is None:
                        connection.close()
                        continue
                    pid = os.fork()
                    if not pid:
                        signal.set_wakeup_fd(-1)
                        for ours in (listener, connection, *running.values()):
                            ours.close()
                        os.close(woken)
                        os.close(wake)
                        return _become(request, standard, executable)
                    for descriptor in standard:
                        os.close(descriptor)
                    running[pid] = connection
                    selector.register(connection, selectors.EVENT_READ, data=pid)
                elif key.data in running:
                    asked = _signals(key.fileobj)
                    for number in asked:
                        os.kill(key.data, number)
                    if not asked:  # whoever stood for it was killed
                        os.kill(key.data, signal.SIGKILL)
                        selector.unregister(key.fileobj)


def _signals(connection: Any) -> bytes:
    """Signals that whoever stands for a process was sent; none where it is gone."""
    try:
        found: bytes = connection.recv(64)
    except ConnectionError:
        return b""
    return found


def _reap(running: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    """Tell of all processes that have ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        connection = running.pop(pid)
        if connection in selector.get_map():
            selector.unregister(connection)
        code = os.waitstatus_to_exitcode(status)
        with connection, contextlib.suppress(OSError):  # of one that is gone
            connection.sendall(code.to_bytes(4, "big", signed=True))


def _request(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """What is to be run, and its standard streams; ``None`` where whoever asks is gone already."""
    size, standard, _, _ = socket.recv_fds(connection, 4, 3)
    content = b""
    while size and len(content) < int.from_bytes(size, "big"):
        more = connection.recv(1 << 16)
        if not more:
            return None, standard
        content += more
    return json.loads(content) if content else None, standard


def _become(request: dict[str, Any], standard: list[int], executable: str) -> list[str]:
    """The process that was asked for, as far as the system can see it."""
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # though a shell started us with "&"
    os.chdir(request["folder"])
    ours = _python_path()
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:] = [*_python_path(), *(place for place in sys.path if place not in ours)]
    sys.executable = executable  # workers start warm, too
    return list(request["arguments"])


def _python_path() -> list[str]:
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


def run(arguments: list[str]) -> None:
    """As Python does it after ``-m`` or ``-c``."""
    kind, what, *rest = arguments
    sys.argv = [kind, *rest]
    if kind == "-m":
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    sys.path.insert(0, "")
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(what, main.__dict__)


def end(code: int) -> NoReturn:
    """As Python ends, but without taking apart what was imported."""
    threading._shutdown()  # type: ignore[attr-defined]  # joins threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main() -> NoReturn:
    for name in PRELOADED:
        __import__(name)
    for name, module in list(sys.modules.items()):
        if "." not in name:  # pytest would warn that it comes too late to rewrite the assertions
            module.__doc__ = f"{module.__doc__ or ''}PYTEST_DONT_REWRITE"
    gc.collect()
    gc.freeze()  # what is shared stays so
    arguments = serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
    try:
        run(arguments)
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            end(exit_.code or 0)
        sys.stderr.write(f"{exit_.code}\n")
        end(1)
    except BaseException as error:
        traceback.print_exception(error)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        end(1)
    end(0)


if __name__ == "__main__":
    main()
