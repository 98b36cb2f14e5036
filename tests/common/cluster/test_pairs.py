"""Lists of pairs on two worker processes: the files of one process, whatever happens to a worker."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import pytest
import SimpleITK as sitk

import warpzoo as package
from warpzoo.cluster import connection
from warpzoo.cohorts.many import recipe_of
from warpzoo.cohorts.template_files import build_template, subjects_of

from .conftest import rows_of, smooth

METHOD = {"method": "affine,svf", "report": False, "threads": 1}
WRITTEN = ("warped.nii.gz", "transform.h5", "displacement.nii.gz")


def test_files_are_those_of_one_process(client: Any, images: list[Path], tmp_path: Path) -> None:
    rows = rows_of(images, 2)
    here = package.register_many(rows, tmp_path / "here", **METHOD)
    there = package.register_many(rows, tmp_path / "there", client=client, **METHOD)
    assert [*here.metrics] == [*there.metrics] == ["1", "2"]
    assert not here.failures
    assert not there.failures
    for pair in there.metrics:
        for name in WRITTEN:
            assert (here.folder / pair / name).read_bytes() == (there.folder / pair / name).read_bytes(), name
        timed = {"seconds": None, "command": None}
        numbers = [
            {key: value for key, value in one.metrics[pair].items() if key not in timed} for one in (here, there)
        ]
        assert numbers[0] == numbers[1]
    # by SimpleITK: the transform that a worker wrote gives the image that it wrote
    folder, reference = there.folder / "2", sitk.ReadImage(str(images[1]))
    warped = sitk.Resample(sitk.ReadImage(str(images[2])), reference, sitk.ReadTransform(str(folder / "transform.h5")))
    written = nibabel.load(folder / "warped.nii.gz").get_fdata().T.squeeze()
    assert abs(sitk.GetArrayFromImage(warped) - written).squeeze()[2:-2, 2:-2].max() < 0.01 * written.max()


def test_a_list_goes_on_and_says_what_failed(client: Any, images: list[Path], tmp_path: Path) -> None:
    rows = rows_of(images, 3)
    images[2].write_bytes(b"no image")
    first = package.register_many(rows, tmp_path / "out", client=client, method="affine", report=False)
    assert [*first.metrics] == ["1"]
    assert "2.nii.gz" in first.failures["2"]
    assert sorted(row["id"] for row in csv.DictReader((tmp_path / "out/failures.csv").open())) == ["2", "3"]
    made = (tmp_path / "out/1/warped.nii.gz").stat().st_mtime_ns
    nibabel.save(nibabel.Nifti1Image(smooth((24, 20), 2).astype("f4"), nibabel.load(images[0]).affine), images[2])
    again = package.register_many(rows, tmp_path / "out", client=client, method="affine", report=False)
    assert not again.failures
    assert (tmp_path / "out/1/warped.nii.gz").stat().st_mtime_ns == made
    assert not (tmp_path / "out/failures.csv").exists()


def test_the_command(
    client: Any, images: list[Path], tmp_path: Path, warpzoo: Callable[..., Any], make_bundle: Callable[..., Path]
) -> None:
    """A network is loaded on workers that know the bundle by its folder, and the command line is the user's."""
    root = make_bundle("shift", [2.0, 0.0])
    table = tmp_path / "pairs.csv"
    table.write_text("id,fixed,moving\na,0.nii.gz,1.nii.gz\nb,1.nii.gz,2.nii.gz\n")
    arguments = ("register", "--pairs", table, "--output", tmp_path / "out", "--noreport", "--cluster")
    ended = warpzoo(*arguments, client.scheduler.address, "--method", root)
    assert ended.code == 0, ended.err
    assert "Dashboard: " in ended.out
    assert "2/2" in ended.err
    numbers = json.loads((tmp_path / "out/a/metrics.json").read_text())
    assert f"register --pairs {table}" in numbers["command"], "not that of the worker"
    assert "2 registered ·" in (tmp_path / "out/overview.html").read_text(encoding="utf-8")


def test_a_template_is_that_of_one_process(client: Any, images: list[Path], tmp_path: Path) -> None:
    for name, workers in (("here", None), ("there", client)):
        recipe = recipe_of("affine", threads=1)
        build_template(subjects_of(images), tmp_path / name, recipe, iterations=1, client=workers)
    for name in ("template.nii.gz", "transforms/1_transform.tfm"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name


SBATCH = """#!/bin/sh
# what Slurm's own does as far as a user sees: the job runs somewhere, its number is printed
grep -q 'SBATCH -p short' "$1" || exit 1
cp "$1" "$JOBS/job.sh"
setsid sh "$JOBS/job.sh" >"$JOBS/log" 2>&1 &
echo $! >>"$JOBS/pids"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -TERM -- "-$job"; done
"""


@pytest.fixture
def slurm(
    images: list[Path], tmp_path: Path, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A stand-in for Slurm's commands, which runs what dask-jobqueue submits by a shell, in the folder of the images;
    its `sbatch`."""
    make_bundle("shift", [2.0, 0.0])
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("JOBS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sbatch"


def test_jobs_of_a_batch_system(slurm: Path, warpzoo: Callable[..., Any]) -> None:
    Path("slurm.yaml").write_text("slurm: {workers: 1, memory: 1GB, queue: short, walltime: '00:10:00'}")
    Path("pairs.csv").write_text("fixed,moving\n0.nii.gz,1.nii.gz\n1.nii.gz,2.nii.gz\n")
    ended = warpzoo("register", "--pairs=pairs.csv", "--method=shift", "--noreport", "--cluster=slurm.yaml")
    assert ended.code == 0, ended.err
    assert "2 of 2 pairs registered" in ended.out
    for job in Path("pids").read_text().split():
        wait_for_end(int(job))


def test_a_batch_system_that_refuses_jobs(slurm: Path, warpzoo: Callable[..., Any]) -> None:
    """All of them: one sentence before any work; some: the others do it."""
    refusal = "echo 'sbatch: error: too many jobs' >&2\nexit 1\n"
    slurm.write_text(f"#!/bin/sh\n{refusal}")
    Path("slurm.yaml").write_text("slurm: {workers: 2, memory: 1GB, queue: short}")
    Path("pairs.csv").write_text("fixed,moving\n0.nii.gz,1.nii.gz\n")
    options = ("register", "--pairs=pairs.csv", "--method=shift", "--noreport", "--cluster=slurm.yaml")
    ended = warpzoo(*options)
    assert ended.code == 1
    assert ended.err == (
        "warpzoo register: the batch system of slurm.yaml must take its jobs, but refuses: sbatch: error: too many "
        "jobs\n"
    )
    assert not Path("registered").exists()
    slurm.write_text(SBATCH.replace("\n", f"\nif ! mkdir $JOBS/first; then\n{refusal}fi\n", 1))
    ended = warpzoo(*options)
    assert ended.code == 0, ended.err
    assert "The batch system has taken 1 of 2 jobs: " in ended.out
    assert "too many jobs" in ended.out
    for job in Path("pids").read_text().split():
        wait_for_end(int(job))


def wait_for_end(group: int) -> None:
    for _ in range(900):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"job {group} still runs")


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ("tcp://127.0.0.1:9", "where none answers"),
        ("tcp://127.0.0.1:port", "got tcp://127.0.0.1:port, where none answers"),
        ("tls://127.0.0.1:9", "where none answers"),
        ("lokal", "cluster must be local, local:N"),
        ("local:0", "one worker or more"),
        ("none.yaml", "none.yaml does not exist"),
        ("slurmy.yaml", "did you mean slurm?"),
        ("cores.yaml", "must have settings of dask-jobqueue's SLURMCluster"),
        ("list.yaml", "must hold one of slurm, pbs, sge, lsf"),
        ("time.yaml", 'walltime of time.yaml must be in quotes, such as "12:00:00", got 43200'),
        ("empty.yaml", "empty.yaml must have settings of dask-jobqueue's SLURMCluster"),
        ("here.yaml", "here.yaml must be used where sbatch is"),
    ],
)
def test_clusters_that_are_not_there(
    cluster: str,
    words: str,
    images: list[Path],
    tmp_path: Path,
    warpzoo: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "SECONDS_TO_CONNECT", 0.5)
    monkeypatch.chdir(tmp_path)
    Path("pairs.csv").write_text("fixed,moving\n0.nii.gz,1.nii.gz\n")
    Path("slurmy.yaml").write_text("slurmm: {memory: 1GB}")
    Path("cores.yaml").write_text("slurm: {memory: 1GB, coresandmore: 3}")
    Path("list.yaml").write_text("- slurm")
    Path("time.yaml").write_text("slurm: {memory: 1GB, walltime: 12:00:00}")
    Path("empty.yaml").write_text("slurm: {}")
    Path("here.yaml").write_text("slurm: {memory: 1GB}")
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = warpzoo("register", "--pairs", "pairs.csv", "--cluster", cluster)
    assert ended.code == 1
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert ended.err.startswith("warpzoo register: ")
    assert words in ended.err
    assert not Path("registered").exists()


def test_two_commands_do_not_mix(images: list[Path], tmp_path: Path) -> None:
    """The lock is the system's: `flock` of util-linux is kept out, and keeps us out."""
    (tmp_path / "out").mkdir()
    holding = ["flock", tmp_path / "out/.in_use", "sh", "-c", "echo held; cat"]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is in use by another command"):
            package.register_many(rows_of(images, 1), tmp_path / "out", method="affine", report=False)
        other.stdin.close()
    left = tmp_path / "out/1/.0123abcd-warped.nii.gz"  # as of a worker that was killed while it wrote
    left.parent.mkdir()
    left.write_bytes(b"half")
    package.register_many(rows_of(images, 1), tmp_path / "out", method="affine", report=False)
    assert not (tmp_path / "out/.in_use").exists()
    assert not left.exists()
