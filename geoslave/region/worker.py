"""A worker process: reads tasks as lines of JSON, answers each with one line.

It ends when the process that started it does, however that ends: then its standard input closes.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading

from geoslave.region.engine import guarded


def main() -> None:
    """Serve until there is no more input. What is named on the command line is loaded beforehand."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which ends its workers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    while True:
        name, task = json.loads(lines.get())
        answers.write(json.dumps(guarded(name, task)).encode() + b"\n")
        answers.flush()


def _listen(lines: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    # the driver is gone or wants an end: files in the making have names of their own, so none is spoilt
    os._exit(0)


if __name__ == "__main__":
    main()
