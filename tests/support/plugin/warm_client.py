"""In place of Python: has a warm server run ``-m`` or ``-c``, and stands for that process.

Written beside the server's socket as an executable by :mod:`warm_python`. What a server
cannot run is run by Python itself.
"""

import json
import os
import signal
import socket
import sys


def main() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # pathlib is slow
    with open(f"{folder}/server.json") as stream:  # noqa: PTH123
        server = json.load(stream)
    arguments = sys.argv[1:]
    what = arguments[1:] if arguments[:1] == ["-u"] else arguments
    if what and what[0].startswith("-m") and what[0] != "-m":
        what[:1] = ["-m", what[0].removeprefix("-m")]
    prefixes = tuple(server["prefixes"])
    same = server["environment"] == {
        name: text
        for name, text in os.environ.items()
        if name.startswith(prefixes) and name != "PYTHONPATH"
    }
    if what[:1] not in (["-m"], ["-c"]) or not same:
        os.execv(server["python"], [server["python"], *arguments])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(f"{folder}/socket")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    request = {"arguments": what, "folder": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
    content = json.dumps(request).encode()
    socket.send_fds(connection, [len(content).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(content)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # theirs alone now: a reader must see the end when they close it
        os.dup2(nothing, standard)
    status = int.from_bytes(connection.recv(4), "big", signed=True)
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
