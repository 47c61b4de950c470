"""Whether the train app grows while it trains: size of its page's state, and memory of its process, over one long run.

    python -m benchmarks.long_training                    # 3,000 iterations of a micro model, some minutes on a core

The app runs as a process against the local platform, and logs, evaluates and shows previews far more often than anybody would.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import requests

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results")
POLL = 0.5  # seconds between looks at how far it is
OFTEN = {"log_every": 2, "validate_every": 20, "preview_every": 20, "checkpoint_every": 500, "previews": 4}
MIB = 1024**2


def page(url: str) -> dict[str, int]:
    """Bytes of what a tab that is opened now loads: the page's state, and the data of its widgets."""
    request = {"context": {"outside_request": True}}  # else the app takes the request for the page's state
    return {name: len(requests.post(f"{url}/sly/{name}", json=request, timeout=60).content) for name in ("state", "data")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_training", description=__doc__)
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--at", type=int, nargs="+", default=[300, 1000, 2000, 3000])
    parser.add_argument("--output", type=Path, default=RESULTS / f"{datetime.now(tz=timezone.utc):%Y-%m-%d}-train-app.json")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))  # its modules name each other without the package, as pytest finds them
    from train_app_scene import Scene, iterations, start, train

    from tests.local_platform import LocalPlatform

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory, LocalPlatform(Path(directory)) as platform:
        scene = Scene(platform)
        with start(platform, scene) as app:
            assert app.process is not None
            process, began = psutil.Process(app.process.pid), time.monotonic()

            def measure(iteration: int) -> None:
                row = {
                    "iteration": iteration,
                    "seconds": round(time.monotonic() - began),
                    "app_mib": process.memory_info().rss / MIB,
                }
                sizes = {f"{name}_bytes": size for name, size in page(app.url).items()}
                rows.append({**row, "app_mib": round(row["app_mib"], 1), **sizes, "threads": process.num_threads()})
                print(rows[-1], flush=True)

            measure(0)
            train(app, scene.state(arguments.iterations, schedule=OFTEN), wait=False).raise_for_status()
            for wanted in arguments.at:
                while app.alive() and iterations(app) < wanted:
                    time.sleep(POLL)
                assert app.alive(), app.log()[-3000:]
                measure(iterations(app))
    report = {
        "command": " ".join(["python -m benchmarks.long_training", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} CPU cores, shared with other work",
        "python": sys.version.split()[0],
        "schedule": OFTEN,
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
