"""A Slurm of one node on this machine, and `--cluster slurm.yaml` through it: are files those of one process?

python scripts/slurm_here.py [--pairs 4] [--workers 2] [--keep FOLDER]

Installs slurmctld, slurmd and munge where apt can and they are not there yet, and starts them as its own daemons in a
temporary folder and at free ports, beside whatever else runs: no systemd, no cgroups, no accounting. Then, on images
made here (seed 0), `warpzoo register --pairs` and `warpzoo denoise` of an OME-Zarr, once in one process and once by
jobs of Slurm, with one thread each; every file but the tables with times must be the same, byte for byte. All that was
started is stopped. Where it cannot run (not root, no packages), one sentence says so, and it ends with 77, as tests do
that are left out.
"""

from __future__ import annotations

import argparse
import csv
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import psutil
import zarr
from scipy.ndimage import gaussian_filter

from warpzoo.record import machine

DAEMONS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
"""Programs, and Debian's packages that hold them."""
LEFT_OUT = 77
SECONDS_TO_START = 60
WITH_TIMES = ("metrics.json", "metrics.csv", "overview.html")
CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
SlurmdPort={other_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={megabytes} State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class CannotRunError(Exception):
    """Slurm cannot be had here."""


def install() -> None:
    """Debian's packages of what is not there yet."""
    if not sys.platform.startswith("linux"):
        raise CannotRunError(f"Slurm runs on Linux, this is {sys.platform}.")
    if os.geteuid() != 0:
        raise CannotRunError("Slurm's daemons must be started by root, who this is not.")
    if missing := [package for program, package in DAEMONS.items() if shutil.which(program) is None]:
        if shutil.which("apt-get") is None:
            raise CannotRunError(f"{', '.join(missing)} must be installed, and there is no apt-get to do that.")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            done = subprocess.run(["apt-get", *command], capture_output=True, text=True, env=quiet, check=False)
        if any(shutil.which(program) is None for program in DAEMONS):
            reason = (done.stderr.strip().splitlines() or ["apt-get gives no reason"])[-1]
            raise CannotRunError(f"{', '.join(missing)} cannot be installed: {reason}")


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Munge, slurmctld and slurmd, while the block runs; its commands find them by the environment."""
    host, key = socket.gethostname().partition(".")[0], folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    port, other_port = free_ports(2)
    settings = {"cores": os.cpu_count(), "megabytes": psutil.virtual_memory().total // 2**20 - 512}
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, port=port, other_port=other_port, **settings))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # the one that does nothing unless it is asked
    for name in ("state", "spool"):
        (folder / name).mkdir()
    names = {name: f"{folder}/munge.{name}" for name in ("socket", "pid", "log", "seed")}
    daemons = [
        ["munged", "--foreground", f"--key-file={key}", f"--socket={names['socket']}", f"--pid-file={names['pid']}"]
        + [f"--log-file={names['log']}", f"--seed-file={names['seed']}", "--force"],
        ["slurmctld", "-D", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf), "-N", host],
    ]
    started: dict[str, subprocess.Popen[bytes]] = {}
    os.environ["SLURM_CONF"] = str(conf)
    try:
        with open(folder / "output.log", "wb") as log:
            for daemon in daemons:
                started[daemon[0]] = subprocess.Popen(daemon, stdout=log, stderr=log)
                if daemon[0] == "munged":
                    wait_for(lambda: Path(names["socket"]).exists(), started, folder)
            wait_for(lambda: asked("sinfo", "-h", "-o", "%T") == "idle", started, folder)
            yield
    finally:
        asked("scancel", "--user=root")
        for process in reversed(started.values()):
            process.terminate()
        for process in reversed(started.values()):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
        del os.environ["SLURM_CONF"]


def wait_for(ready: Callable[[], bool], started: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    ends = time.monotonic() + SECONDS_TO_START
    while not ready():
        dead = [name for name, process in started.items() if process.poll() is not None]
        if dead or time.monotonic() > ends:
            for log in ("output.log", "slurmctld.log", "slurmd.log"):
                if (folder / log).exists():
                    print(f"{log}:", *(folder / log).read_text(errors="replace").splitlines()[-8:], sep="\n  ")
            what = f"{dead[0]} ended" if dead else f"no node was idle after {SECONDS_TO_START} s"
            raise CannotRunError(f"Slurm does not start on this machine: {what}; see its logs above.")
        time.sleep(0.2)


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def make_images(folder: Path, pairs: int, workers: int) -> None:
    random = np.random.default_rng(0)
    for number in range(pairs + 1):
        values = 1000 * gaussian_filter(random.normal(size=(64, 60)), 3)
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), folder / f"{number}.nii.gz")
    with open(folder / "pairs.csv", "w", newline="") as table:
        csv.writer(table).writerows([["fixed", "moving"], *([f"{n}.nii.gz", f"{n + 1}.nii.gz"] for n in range(pairs))])
    axes = [{"name": "t", "type": "time"}, *({"name": name, "type": "space"} for name in "yx")]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    described = {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group = zarr.create_group(folder / "noisy.zarr", zarr_format=2, attributes={"multiscales": [described]})
    frames = random.poisson(400 * gaussian_filter(random.random((4, 256, 256)), (0, 3, 3))).astype(np.uint16)
    group.create_array("0", data=frames, chunks=(1, 128, 128))
    job = f"workers: {workers}, cores: 1, memory: 3GB, queue: short, walltime: '00:20:00', log_directory: {folder}/jobs"
    (folder / "slurm.yaml").write_text(f"slurm: {{{job}}}\n")


def warpzoo(folder: Path, *arguments: str) -> float:
    """Seconds that the command takes; its output is shown if it fails."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "warpzoo", *arguments, "--threads=1"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - begun


def differing(one: Path, other: Path) -> list[str]:
    """Files that are not the same in two folders, those with times in them left out."""
    files = [
        {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() and path.name not in WITH_TIMES}
        for folder in (one, other)
    ]
    assert files[0], one
    return sorted(
        str(name)
        for name in {*files[0], *files[1]}
        if name not in files[0] or name not in files[1] or files[0][name].read_bytes() != files[1][name].read_bytes()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the images, results, and logs of Slurm and its jobs")
    options = parser.parse_args()
    print(f"{machine()['processor']}, {os.cpu_count()} cores, {psutil.getloadavg()[0]:.1f} busy when it began")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        try:
            install()
            work, daemons = folder / "work", folder / "slurm"
            for one in (work, daemons):
                one.mkdir(parents=True)
            make_images(work, options.pairs, options.workers)
            with slurm(daemons):
                print(f"{asked('sinfo', '--version')}, {asked('sinfo', '-h', '-o', '%D node with %c cores, %T')}")
                compare(work, options.pairs)
                print(asked("squeue", "--states=all", "-o", "job %i, %j: %T after %M").partition("\n")[2])
        except CannotRunError as error:
            print(f"left out: {error}")
            sys.exit(LEFT_OUT)


def compare(work: Path, pairs: int) -> None:
    commands = {
        f"register --pairs, {pairs} pairs": ["register", "--pairs=pairs.csv", "--method=affine,svf", "--noreport"],
        "denoise, OME-Zarr of 16 chunks": ["denoise", "noisy.zarr", "--method=gaussian", "--size=1.5", "--tile=128"],
    }
    for title, command in commands.items():
        suffix = "" if command[0] == "register" else ".zarr"
        outputs = [f"{command[0]}_{place}{suffix}" for place in ("here", "slurm")]
        here = warpzoo(work, *command, f"--output={outputs[0]}")
        there = warpzoo(work, *command, f"--output={outputs[1]}", "--cluster=slurm.yaml")
        if others := differing(*(work / output for output in outputs)):
            sys.exit(f"{title}: other files by Slurm than in one process: {', '.join(others)}")
        print(f"{title}: {here:.0f} s in one process, {there:.0f} s by Slurm's jobs, the same files byte for byte")


if __name__ == "__main__":
    main()
