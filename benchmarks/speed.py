"""Ratios of speed: the default against the published order and against approximations, interleaved in one run.

    python -m benchmarks.speed                                  # the table for a CPU, in under 10 minutes; MiT-B0
    python -m benchmarks.speed --encoders mit_b5 --crop 1024 --sizes 1024x2048 --device cuda
    python -m benchmarks.speed losses                           # loss curves of both orders beside two seeds

Each arm runs in a process of its own (benchmarks/speed_arms.py), which waits while another one is measured: so memory peaks
and the allocator belong to one arm, and other work on the machine meets all of them alike. Writes a dated JSON file and
prints a table for README.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed_arms import ARMS
from hrda_core.allocator import VARIABLE

RESULTS = Path(__file__).parent / "results"
CPU_ARMS = ["reference", "every window", "default", "fewer windows", "both"]
GPU_ARMS = ["reference", "reference, TF32", "every window", "default", "fewer windows"]
GPU_WARM_UPS = 4  # prediction records its windows at the third pass
# of the original code, seconds on 2 threads of an EPYC; the minimum of its repetitions
ORIGINAL = {
    ("mit_b0", "forward and backward"): 0.54,
    ("mit_b0", "training step"): 2.5,
    ("mit_b0", "inference 512x512"): 2.6,
    ("mit_b5", "inference 512x512"): 6.5,
}


class Worker:
    """An arm in its own process, which runs a task when told to."""

    def __init__(self, arm: str, options: argparse.Namespace, encoder: str) -> None:
        environment = {**os.environ, VARIABLE: "0" if ARMS[arm].reference else "1", "OMP_NUM_THREADS": str(options.threads)}
        command = [sys.executable, "-m", "benchmarks.speed_arms", arm, encoder, str(options.crop), options.device]
        command += [str(options.threads), *options.sizes]
        self.arm = arm
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, task: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of arm {self.arm!r} ended at {task!r}; its error is above")
        return dict(json.loads(answer))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(encoder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Of every task and arm: seconds of all repetitions, and the peak of memory after it."""
    workers = [Worker(arm, options, encoder) for arm in options.arms]
    try:
        about, *_ = [worker.ask("about") for worker in workers]  # of all: until every one is ready, none is measured
        tasks = [task for task in workers[0].ask("tasks")["tasks"] if task not in options.without]
        results: dict[str, Any] = {}
        for task in tasks:
            seconds: dict[str, list[float]] = {arm: [] for arm in options.arms}
            peaks: dict[str, float] = {}
            warm_ups = options.warm_ups
            for repetition in range(options.repetitions + warm_ups):
                for worker in workers:
                    answer = worker.ask(task)
                    if repetition >= warm_ups:
                        seconds[worker.arm].append(answer["seconds"])
                    peaks[worker.arm] = answer["peak_mb"]
            results[task] = {arm: {**summary(seconds[arm]), "peak_mb": round(peaks[arm])} for arm in options.arms}
            print(
                encoder, task, {arm: round(results[task][arm]["median"], 3) for arm in options.arms}, file=sys.stderr, flush=True
            )
        starts = {worker.arm: worker.ask("about")["start_seconds"] for worker in workers}
        return {"about": about, "start_seconds": starts, "tasks": results}
    finally:
        for worker in workers:
            worker.close()


def summary(seconds: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds), "all": seconds}


def table(results: dict[str, Any], arms: list[str]) -> str:
    """Seconds of the reference, and how many times as fast the others are: the ratio of medians (least to most of the pairs)."""
    others = [arm for arm in arms if arm != "reference"]
    lines = ["| encoder, task | original | reference | " + " | ".join(others) + " | peak, reference / default |"]
    lines.append("| --- " * (len(others) + 4) + "|")
    for encoder, result in results.items():
        for task, by_arm in result["tasks"].items():
            original = ORIGINAL.get((encoder, task))
            cells = [f"{encoder}, {task}", f"{original:.2f} s" if original else "", f"{by_arm['reference']['median']:.2f} s"]
            for arm in others:
                pairs = [r / o for r, o in zip(by_arm["reference"]["all"], by_arm[arm]["all"], strict=True)]
                ratio = by_arm["reference"]["median"] / by_arm[arm]["median"]
                cells.append(f"{ratio:.2f}x ({min(pairs):.2f}-{max(pairs):.2f}), {by_arm[arm]['median']:.2f} s")
            cells.append(" / ".join(f"{by_arm[arm]['peak_mb']} MB" for arm in ("reference", "default") if arm in by_arm))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", "-m", "benchmarks.speed", *sys.argv[1:]]),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "load_at_start": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        "arms": {name: arm.about for name, arm in ARMS.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="ratios", choices=["ratios", "losses"])
    parser.add_argument("--encoders", nargs="+", default=["mit_b0"], help="mit_b0 mit_b2 mit_b5 mobilenetv2_100")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--sizes", nargs="*", default=["512x512"], help="of inference: 512x512 1024x2048 3000x4000")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="default: those for the device")
    parser.add_argument("--without", nargs="*", default=[], help="tasks to leave out, such as 'teacher'")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--warm-ups", type=int, help=f"repetitions that do not count; default: 1, on a GPU {GPU_WARM_UPS}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--iterations", type=int, default=300, help="of `losses`")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/DATE-speed.json")
    options = parser.parse_args()
    options.arms = options.arms or (GPU_ARMS if options.device.startswith("cuda") else CPU_ARMS)
    if options.warm_ups is None:
        options.warm_ups = GPU_WARM_UPS if options.device.startswith("cuda") else 1
    about = machine(options)
    if options.what == "losses":
        from benchmarks.speed_losses import compare

        result = {**about, "losses": compare(options.iterations, options.threads)}
        print(json.dumps(result["losses"], indent=1))
    else:
        if "reference" not in options.arms:
            parser.error("--arms: ratios are against 'reference', so it must be among them")
        result = {**about, "results": {encoder: measure(encoder, options) for encoder in options.encoders}}
        print(f"{about['threads']} threads, torch {about['torch']}, TF32 {about['tf32']}, {about['gpu'] or about['processor']}")
        print(table(result["results"], options.arms))
    name = f"{about['date']}-speed{'-losses' if options.what == 'losses' else ''}.json"
    path = options.output or RESULTS / name
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
