"""Speed, memory and accuracy of the shared package beside the usual implementations, in one process.

    python scripts/benchmark.py ops [--size 96] [--threads 2] [--repeats 7] [--json FILE] [--markdown FILE]
    python scripts/benchmark.py files [--threads 2] [--json FILE] [--markdown FILE]
    python scripts/benchmark.py start [--before COMMIT] [--threads 2] [--repeats 7] [--json FILE] [--markdown FILE]

Time: forward and backward of each side in turn, medians over the repeats. Memory: what one first call of each side adds
at most to a fresh process. Error: against the definition written down plainly in float64. Measure on an idle machine:
the report contains its load.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from warpzoo.geometry.bspline import BSplineField
from warpzoo.geometry.sampling import warp
from warpzoo.losses import LNCCLoss, MutualInformationLoss
from warpzoo.record import machine, versions, write_json

Operation = Callable[[Tensor, Tensor], Tensor]  # (a constant, what the gradient is taken of) → result
Inputs = tuple[Tensor, Tensor, Tensor]  # the same two, and the gradient that reaches the result

WINDOW, BINS, SPACING = 9, 23, 8
LOAD_OF_AN_IDLE_MACHINE = 0.3


@dataclass(frozen=True)
class Comparison:
    """One operation: its inputs for a size, ours, the usual way (imported when asked for), and its definition."""

    name: str
    bar: float
    inputs: Callable[[int], Inputs]
    ours: Callable[[], Operation]
    usual: Callable[[], Operation]
    definition: Operation
    note: str = ""


def smooth_noise(channels: int, size: int, cell: int, amplitude: float, seed: int) -> Tensor:
    noise = torch.randn(1, channels, *[-(-size // cell) + 1] * 3, generator=torch.Generator().manual_seed(seed))
    return amplitude * F.interpolate(noise, size=[size] * 3, mode="trilinear", align_corners=True)


def two_images(size: int) -> Inputs:
    """Two images that share their structures, not their noise."""
    anatomy = smooth_noise(1, size, 8, 1.0, seed=0)
    fixed, warped = (anatomy + smooth_noise(1, size, 1, 0.2, seed=seed) for seed in (1, 2))
    return fixed, warped.requires_grad_(), torch.tensor(1.0)


def two_images_in_bins(size: int) -> Inputs:
    """The same, the fixed image off the edges of its histogram's bins, where round-off moves a voxel to the next."""
    fixed, warped, gradient = two_images(size)
    position = (fixed - fixed.min()) * ((BINS - 4) / (fixed.max() - fixed.min()))
    inside = (position > 0) & (position < position.max())
    return torch.where(inside, position.floor() + 0.01 + 0.98 * position.frac(), position), warped, gradient


def image_and_displacement(size: int) -> Inputs:
    """The displacement ends a hundredth of a voxel or more from voxel centres, where its gradient jumps."""
    displacement = smooth_noise(3, size, 8, 4.0, seed=3)
    displacement = displacement.floor() + 0.01 + 0.98 * (displacement - displacement.floor())
    return two_images(size)[0], displacement.requires_grad_(), smooth_noise(1, size, 4, 1.0, seed=4)


def image_and_control_points(size: int) -> Inputs:
    image = torch.zeros(1).expand(1, 1, size, size, size)
    points = torch.randn(1, 3, *[-(-size // SPACING)] * 3, generator=torch.Generator().manual_seed(5))
    return image, points.requires_grad_(), smooth_noise(3, size, 4, 1.0, seed=6)


def monai_warp() -> Operation:
    from monai.networks.blocks import Warp

    return Warp()


def monai_lncc() -> Operation:
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    loss = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=WINDOW)
    return lambda fixed, warped: loss(warped, fixed)


def monai_mutual_information() -> Operation:
    from monai.losses import GlobalMutualInformationLoss

    loss = GlobalMutualInformationLoss(kernel_type="b-spline", num_bins=BINS)
    return lambda fixed, warped: loss(warped, fixed)


def cubic(t: Tensor) -> Tensor:
    """The cubic B-spline, as in any textbook."""
    t = t.abs()
    return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, torch.where(t < 2, (2 - t) ** 3 / 6, 0.0))


def our_bspline() -> Operation:
    layer = BSplineField(SPACING, spatial_dims=3)
    return lambda image, points: layer(points, image)


def transposed_convolution(image: Tensor, points: Tensor) -> Tensor:
    """The whole three-dimensional kernel, four spacings wide, put down at every control point."""
    taps = cubic((torch.arange(4 * SPACING, dtype=points.dtype) - 2 * SPACING + 0.5) / SPACING)
    kernel = torch.einsum("i,j,k->ijk", taps, taps, taps).expand(3, 1, -1, -1, -1)
    padded = F.pad(points, [2] * 6, mode="replicate")
    field = F.conv_transpose3d(padded, kernel, stride=SPACING, padding=3 * SPACING + SPACING // 2, groups=3)
    depth, height, width = image.shape[2:]
    return field[..., :depth, :height, :width]


def define_warp(image: Tensor, displacement: Tensor) -> Tensor:
    sizes = image.shape[2:]
    axes = torch.meshgrid(*(torch.arange(size, dtype=displacement.dtype) for size in sizes), indexing="ij")
    grid = [2 * (axes[i] + displacement[:, i]) / (sizes[i] - 1) - 1 for i in (2, 1, 0)]
    return F.grid_sample(image, torch.stack(grid, -1), padding_mode="border", align_corners=True)


def define_lncc(fixed: Tensor, warped: Tensor) -> Tensor:
    def mean(image: Tensor) -> Tensor:
        return F.avg_pool3d(image, WINDOW, stride=1)  # whole windows only

    covariance = mean(fixed * warped) - mean(fixed) * mean(warped)
    variances = [mean(image**2) - mean(image) ** 2 for image in (fixed, warped)]
    return -(covariance**2 / (variances[0] * variances[1])).mean()


def define_mutual_information(fixed: Tensor, warped: Tensor) -> Tensor:
    def position(image: Tensor) -> Tensor:
        low, high = image.detach().min(), image.detach().max()
        return ((image - low) * ((BINS - 4) / (high - low)) + 2).flatten()

    row = position(fixed).floor().clamp(2, BINS - 3).long()
    columns = [cubic(position(warped) - b) for b in range(BINS)]
    joint = torch.stack([torch.zeros(BINS).to(column).index_add(0, row, column) for column in columns], 1)
    joint = joint / joint.sum()
    independent = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    filled = joint > 0
    return -(joint[filled] * (joint[filled] / independent[filled]).log()).sum()


OPERATIONS = [
    Comparison(
        name="warp, trilinear, border",
        bar=1.5,
        inputs=image_and_displacement,
        ours=lambda: warp,
        usual=monai_warp,
        definition=define_warp,
    ),
    Comparison(
        name=f"LNCC, window {WINDOW}",
        bar=6,
        inputs=two_images,
        ours=lambda: LNCCLoss(WINDOW),
        usual=monai_lncc,
        definition=define_lncc,
        note="MONAI pads with zeros and counts the windows that reach over the border; the definition takes whole "
        "windows only.",
    ),
    Comparison(
        name=f"mutual information, {BINS} bins",
        bar=20,
        inputs=two_images_in_bins,
        ours=lambda: MutualInformationLoss(BINS),
        usual=monai_mutual_information,
        definition=define_mutual_information,
        note="MONAI rounds the fixed image to the nearest bin, where ITK and the definition round down, and lets the "
        "darkest and the brightest voxel move the range, which gives these two nearly all of the gradient: another "
        "definition.",
    ),
    Comparison(
        name=f"cubic B-spline field, spacing {SPACING}",
        bar=60,
        inputs=image_and_control_points,
        ours=our_bspline,
        usual=lambda: transposed_convolution,
        definition=transposed_convolution,
        note="The usual way is one full transposed convolution; its float64 run is the definition.",
    ),
]
SUITES = {"ops": OPERATIONS}


def forward_and_backward(operation: Operation, inputs: Inputs) -> tuple[Tensor, Tensor]:
    constant, variable, cotangent = inputs
    variable.grad = None
    result = operation(constant, variable)
    result.backward(cotangent)
    assert variable.grad is not None
    return result.detach(), variable.grad


def seconds_of(operation: Operation, inputs: Inputs) -> float:
    start = time.perf_counter()
    forward_and_backward(operation, inputs)
    return time.perf_counter() - start


def error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, in parts of the largest value."""
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def peak_memory(suite: str, index: int, side: str, size: int, threads: int) -> int:
    """Bytes that a first forward and backward holds at most. Runs in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    comparison = SUITES[suite][index]
    operation = getattr(comparison, side)()
    forward_and_backward(operation, comparison.inputs(4 * SPACING))  # loads code and starts threads
    inputs = comparison.inputs(size)
    before = high_water(reset=True)
    forward_and_backward(operation, inputs)
    return high_water() - before


def high_water(reset: bool = False) -> int:
    """Bytes of memory this process has held at most; since the last reset, where the system (Linux) can do that."""
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    # not ru_maxrss, which a process inherits from the one that started it
    return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])


def in_a_fresh_process(*arguments: object) -> int:
    # glibc is told to give freed blocks back at once: what is held is then what is in use.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_memory, arguments)


def compare(suite: str, index: int, size: int, threads: int, repeats: int) -> dict[str, object]:
    comparison = SUITES[suite][index]
    inputs = comparison.inputs(size)
    sides = {"ours": comparison.ours(), "usual": comparison.usual()}

    wide = tuple(tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in inputs)
    value, gradient = forward_and_backward(comparison.definition, wide)
    row: dict[str, object] = {"operation": comparison.name, "bar": comparison.bar, "note": comparison.note}
    for side, operation in sides.items():  # the calls that warm up are the ones that are checked
        found = forward_and_backward(operation, inputs)
        row[f"{side}_value_error"], row[f"{side}_gradient_error"] = error(found[0], value), error(found[1], gradient)
    del wide, value, gradient, found

    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, operation in sides.items():
            times[side].append(seconds_of(operation, inputs))
    ours, usual = (median(times[side]) for side in ("ours", "usual"))
    memory = {side: in_a_fresh_process(suite, index, side, size, threads) for side in sides}
    return row | {
        "ours_seconds": ours,
        "usual_seconds": usual,
        "ratio": usual / ours,
        "met": usual / ours >= comparison.bar,
        "ours_bytes": memory["ours"],
        "usual_bytes": memory["usual"],
        "all_seconds": times,
    }


def busy_seconds_of_others() -> float | None:
    """Processor time that other processes have used so far, where the system says so (Linux)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, kernel, *_ = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in stat.read_text().split()[1:8])
    return user + nice + kernel - sum(os.times()[:4])


HEADER = ("operation", "ours", "usual", "faster", "bar", "memory: ours", "usual", "error: ours", "usual")


def cells(row: dict) -> tuple[str, ...]:
    errors = [f"{row[f'{side}_value_error']:.0e}, {row[f'{side}_gradient_error']:.0e}" for side in ("ours", "usual")]
    times = [f"{1000 * row[f'{side}_seconds']:.1f} ms" for side in ("ours", "usual")]
    memory = [f"{row[f'{side}_bytes'] / 2**20:.0f} MiB" for side in ("ours", "usual")]
    verdict = "" if row["met"] else " (missed)"
    return (row["operation"], *times, f"{row['ratio']:.1f} ×", f"{row['bar']:g} ×{verdict}", *memory, *errors)


def table(report: dict) -> str:
    about, rows = report["machine"], report["rows"]
    lines = [HEADER, ("---",) + ("---:",) * (len(HEADER) - 1), *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    text = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines]
    text += [
        "",
        f"{about['processor']}, {about['threads']} of {about['cores']} cores, torch {about['torch']}, MONAI "
        f"{about['monai']}, Python {about['python']}; {about['size']}³ voxels, float32; forward and backward, medians "
        f"of {about['repeats']} in turn. {about['busy']}",
        "",
        "Memory: what one first call in a fresh process holds at most beyond its inputs. Error: of the value and of "
        "the gradient, the largest difference from the definition in float64, in parts of the largest value.",
    ]
    text += [f"\n{row['operation']}: {row['note']}" for row in rows if row["note"]]
    return "\n".join(text) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "suite",
        choices=(*SUITES, "files", "start"),
        help="ops: the operations beside MONAI's; files: a pair of volumes; start: until a small pair is registered",
    )
    parser.add_argument("--size", type=int, default=96, help="voxels a side (96)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (2)")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs a side (7)")
    parser.add_argument("--before", help="start: a commit to measure in turn with the present state")
    parser.add_argument("--json", type=Path, help="write every number there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    return parser.parse_args()


def main() -> None:
    options = parse()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it is the processor that is measured, and named
    about: dict[str, object] = machine() | versions() | {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    about |= {"size": options.size, "repeats": options.repeats}
    if about["load_before"] > LOAD_OF_AN_IDLE_MACHINE:
        print(f"The load is {about['load_before']:.2f}: this machine is not idle; the timings are unreliable.")
    start, others = time.perf_counter(), busy_seconds_of_others()
    if options.suite == "files":
        import benchmark_files

        report, text = benchmark_files.report(options.threads)
        finish(options, report, text)
        return
    if options.suite == "start":
        import benchmark_start

        report, text = benchmark_start.report(options.threads, options.repeats, options.before)
        finish(options, report, text)
        return
    rows = []
    for index, comparison in enumerate(SUITES[options.suite]):
        print(f"{comparison.name} …", flush=True)
        rows.append(compare(options.suite, index, options.size, options.threads, options.repeats))
    about["busy"] = f"Load before: {about['load_before']:.2f}."
    if others is not None:
        share = (busy_seconds_of_others() - others) / (time.perf_counter() - start)
        about["busy"] += f" Meanwhile other processes kept {max(share, 0):.2f} cores busy."
    report = {"machine": about, "rows": rows}
    finish(options, report, table(report))


def finish(options: argparse.Namespace, report: dict, text: str) -> None:
    print(f"\n{text}")
    if options.json:
        write_json(options.json, report)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
