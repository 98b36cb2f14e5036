"""Sends requests in turn to `warpzoo serve` in a process of its own, and says how its memory and time went.

python scripts/serve_requests.py --method dirnet --requests 100

Images of 128 × 120 pixels, made here, seed 0; every fifth request is one that must be refused. Ends with an error if
one is lost, or answered otherwise than it must be, or if the memory after the last is more than 5 % above that after
the twentieth.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

from warpzoo.record import cpu_name

WARM, MOST = 20, 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="dirnet")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    command = [sys.executable, "-m", "warpzoo", "serve", f"--method={options.method}", f"--port={options.port}"]
    server = subprocess.Popen([*command, "--device=cpu", "--threads=1"], stdout=subprocess.PIPE, text=True)
    try:
        print(f"{cpu_name()}; {server.stdout.readline().strip()}", flush=True)
        _wait(options.port)
        images, memory, seconds = _images(), [], []
        for number in range(1, options.requests + 1):
            broken = number % 5 == 0
            begun = time.perf_counter()
            status, content = _register(options.port, images["fixed"], b"nothing" if broken else images["moving"])
            seconds.append(time.perf_counter() - begun)
            if status != (422 if broken else 200) or (not broken and content[:2] != b"PK"):
                sys.exit(f"request {number} got {status}: {content[:200]!r}")
            memory.append(_megabytes(server.pid))
            if number in (1, 10, WARM) or number % 25 == 0:
                print(f"after {number:4} requests: {memory[-1]:.0f} MB", flush=True)
        state = json.loads(_ask(options.port, "GET", "/state")[1])
    finally:
        server.terminate()
        server.wait()
    refused = options.requests // 5
    registered = [value for number, value in enumerate(seconds, 1) if number % 5]
    print(f"{state['done']} registered, {state['failed']} refused; median {np.median(registered):.2f} s each")
    if (state["done"], state["failed"]) != (options.requests - refused, refused):
        sys.exit("requests were lost.")
    if options.requests > WARM and memory[-1] > MOST * memory[WARM - 1]:
        sys.exit(f"memory grew from {memory[WARM - 1]:.0f} to {memory[-1]:.0f} MB.")


def _images() -> dict[str, bytes]:
    values = 1000 * gaussian_filter(np.random.default_rng(0).standard_normal((136, 128)), 4)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, first in (("fixed", 0), ("moving", 3)):
            part = values[first : first + 128, first : first + 120].astype(np.float32)
            path = Path(folder) / f"{side}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(part, np.diag([1.3, 1.3, 1, 1])), path)
            found[side] = path.read_bytes()
    return found


def _register(port: int, fixed: bytes, moving: bytes) -> tuple[int, bytes]:
    parts = b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{side}"; filename="{side}.nii.gz"\r\n\r\n'.encode()
        + one
        + b"\r\n"
        for side, one in (("fixed", fixed), ("moving", moving))
    )
    return _ask(port, "POST", "/register", parts + b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"})


def _ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def _wait(port: int) -> None:
    for _ in range(600):
        try:
            _ask(port, "GET", "/state")
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server does not answer.")


def _megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


if __name__ == "__main__":
    main()
