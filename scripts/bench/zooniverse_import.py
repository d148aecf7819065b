"""A classification export with broken rows goes into a review: seconds, and the most memory it took.

uv run --all-extras scripts/bench/zooniverse_import.py            100,000 classifications
uv run --all-extras scripts/bench/zooniverse_import.py --quick    10,000

One row in fifty is broken, doubled or of another review; one in ten marks sites. The import runs in a process of its
own, by the command line, as a coordinator would.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from common import say

from geoslave.review.store import open_store
from geoslave.review.tasks import Picture, Task

HEADER = (
    *("classification_id", "user_name", "user_id", "user_ip", "workflow_id", "workflow_name", "workflow_version"),
    *("created_at", "gold_standard", "expert", "metadata", "annotations", "subject_data", "subject_ids"),
)
METADATA = json.dumps(
    {"source": "api", "session": "a" * 64, "viewport": {"width": 1280, "height": 720}, "utc_offset": "0"}
    | {"user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:130.0)", "started_at": "2026-02-01T10:20:00Z"}
)
EACH = 20
"""Classifications a task."""


def write(path: Path, n: int) -> None:
    dice = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER)
        rows.writerows(row(k, n, dice) for k in range(n))


def row(k: int, n: int, dice: random.Random) -> list[object]:
    task = k % max(1, n // EACH)
    person = dice.randrange(n // 20)
    said: object = dice.choice(("Yes", "No", "Not sure"))
    if task % 10 == 0:
        said = [{"x": dice.uniform(0, 600), "y": dice.uniform(0, 600), "tool": 0, "frame": 0} for _ in range(3)]
    annotations = json.dumps([{"task": "T0", "task_label": "Is there a **kiln** inside the outline?", "value": said}])
    subject = {f"{90_000 + task}": {"retired": None, "#task_id": f"t{task}", "image_1": "a.png", "image_2": "b.png"}}
    number: object = 1000 + k
    if k % 50 == 1:
        match k // 50 % 4:
            case 0:
                annotations = annotations[:-9]
            case 1:
                number = 1000 + k - 1
            case 2:
                subject = {"1": {"retired": None, "#task_id": "elsewhere"}}
            case 3:
                number = "none"
    who = (f"volunteer_{person}", 70_000 + person) if person % 7 else (f"not-logged-in-{person}", "")
    told = ("2026-02-01 10:20:30 UTC", "", "", METADATA, annotations, json.dumps(subject), 90_000 + task)
    return [number, *who, "abc", 55, "Kilns", "3.14", *told]


def peak_kb(pid: int) -> int:
    """The most memory a process had (Linux). What a parent is told of its child counts the parent in."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 rows")
    n = 10_000 if parser.parse_args().quick else 100_000
    with TemporaryDirectory(dir="/tmp", prefix="gs-zoo-") as name:
        folder = Path(name)
        write(folder / "classifications.csv", n)
        picture = Picture("pictures/a.png", "near", 640, 640)
        with open_store(folder / "review.sqlite") as store:
            kinds = ("search" if k % 10 == 0 else "validate" for k in range(n // EACH))
            store.add_tasks(
                Task(f"t{k}", kind, "flagged", 0.5, pictures=(picture,))  # type: ignore[arg-type]
                for k, kind in enumerate(kinds)
            )
        words = ["review", "import", str(folder), str(folder / "classifications.csv"), "--from", "zooniverse", "--json"]
        began, most = time.monotonic(), 0
        command = [sys.executable, "-m", "geoslave.cli.main", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
            while run.poll() is None:
                most = max(most, peak_kb(run.pid))
                time.sleep(0.1)
            took = time.monotonic() - began
            told = json.loads(run.stdout.read() if run.stdout else "")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open_store(folder / "review.sqlite") as store:
            kept = store.verify().votes
    assert kept == told["votes"] and told["votes"] + sum(told["left"].values()) == told["read"] == n
    facts = {"rows": n, "seconds": round(took, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 1)}
    say(facts | {"rss_mb": round(most / 1024), "votes": kept, "left": told["left"]})


if __name__ == "__main__":
    main()
