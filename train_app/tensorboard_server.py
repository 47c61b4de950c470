"""TensorBoard that ends with the program which started it, however that ends."""

from __future__ import annotations

import os
import threading

from tensorboard.main import run_main


def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    run_main()
