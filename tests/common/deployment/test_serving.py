"""Registration over HTTP, by a real server: results, limits, errors, one pair at a time, and the page in a browser."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import uvicorn
from pydicom import dcmread
from scipy.ndimage import shift

import warpzoo
from warpzoo.deployment.serving import service_application
from warpzoo.geometry.composition import identity
from warpzoo.registration.methods import find_methods

MOST = 200_000


class Still:
    """A method that finds nothing, and knows how many pairs were at work together."""

    name, expectations = "still", {}

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0
        self.wait = 0.0

    def __call__(self, fixed: Any, moving: Any, start: Any, guidance: Any) -> Any:
        self.now += 1
        self.most, self.calls = max(self.most, self.now), self.calls + 1
        time.sleep(self.wait)
        self.now -= 1
        return identity(fixed.grid)


class Server:
    def __init__(self, methods: Any, most_waiting: int = 16, **limits: Any) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        application = service_application(methods, "a method", "0.1.0", MOST, most_waiting, **limits)
        self.server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, (bytes, type(None))))
        answer = connection.getresponse()
        return answer.status, answer.read()

    def register(self, accept: str = "*/*", **files: tuple[str, bytes]) -> tuple[int, Any]:
        body = b"".join(
            f'--x\r\nContent-Disposition: form-data; name="{side}"; filename="{name}"\r\n\r\n'.encode()
            + content
            + b"\r\n"
            for side, (name, content) in files.items()
        )
        headers = {"content-type": "multipart/form-data; boundary=x", "accept": accept}
        status, content = self.ask("POST", "/register", body + b"--x--\r\n", headers)
        return status, content if content[:2] == b"PK" else json.loads(content)


@pytest.fixture(scope="module")
def still() -> Still:
    return Still()


@pytest.fixture(scope="module")
def server(still: Still) -> Iterator[Server]:
    running = Server([still])
    yield running
    running.close()


@pytest.fixture
def pair(tmp_path: Path, scene: Any) -> dict[str, Path]:
    fixed = scene((48, 56)).astype(np.float32)
    for name, values in {"fixed": fixed, "moving": shift(fixed, (3, -2), order=1, mode="nearest")}.items():
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.2, 1, 1])), tmp_path / f"{name}.nii.gz")
    return {side: tmp_path / f"{side}.nii.gz" for side in ("fixed", "moving")}


def named(pair: dict[str, Path]) -> dict[str, tuple[str, bytes]]:
    return {side: (path.name, path.read_bytes()) for side, path in pair.items()}


def test_it_gives_what_register_gives(pair: dict[str, Path], tmp_path: Path) -> None:
    running = Server(find_methods("rigid", device="cpu"))
    try:
        status, content = running.register(**named(pair))
    finally:
        running.close()
    assert status == 200
    zipfile.ZipFile(io.BytesIO(content)).extractall(tmp_path / "out")
    expected = warpzoo.register(pair["fixed"], pair["moving"], "rigid", device="cpu").save(tmp_path / "ours")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in expected.iterdir()}
    for name in ("warped.nii.gz", "displacement.nii.gz"):
        found, ours = (nibabel.load(folder / name) for folder in (tmp_path / "out", expected))
        assert np.array_equal(found.affine, ours.affine)
        np.testing.assert_allclose(np.asarray(found.dataobj), np.asarray(ours.dataobj), atol=1e-4)


def test_dicom_series_come_as_zip_and_give_dicom(server: Server, study: Path, tmp_path: Path) -> None:
    files = {}
    for side in ("fixed", "moving"):
        shutil.make_archive(str(tmp_path / side), "zip", study, side)
        files[side] = (f"{side}.ZIP", (tmp_path / f"{side}.zip").read_bytes())
    status, content = server.register(**files)
    assert status == 200
    zipped = zipfile.ZipFile(io.BytesIO(content))
    made = dcmread(io.BytesIO(zipped.read("registration.dcm")))
    assert made.SOPClassUID.name.endswith("Spatial Registration Storage")
    assert dcmread(io.BytesIO(zipped.read("report.dcm"))).Modality == "OT"


def test_for_a_page_results_have_addresses(server: Server, pair: dict[str, Path]) -> None:
    status, told = server.register("application/json", **named(pair))
    assert status == 201
    assert {"warped.nii.gz", "report.html", "metrics.json"} <= told["files"].keys()
    assert "ncc" in told["summary"]
    status, content = server.ask("GET", told["files"]["report.html"])
    assert status == 200
    assert b"moving.nii.gz" in content
    for path in ("/results/../out/metrics.json", told["files"]["report.html"].replace("report.html", "..%2Fx"), "/x"):
        assert server.ask("GET", path)[0] == 404
    assert b"drop" in server.ask("GET", "/")[1]
    assert json.loads(server.ask("GET", "/state")[1])["waiting"] == 0


BAD: dict[str, tuple[dict[str, tuple[str, bytes]], int, str]] = {
    "nothing": ({}, 400, "fixed must be given as a file; the request must have fixed and moving."),
    "one": ({"moving": ("a.nii", b"x")}, 400, "fixed must be given as a file"),
    "kind": ({"fixed": ("a.exe", b"x"), "moving": ("b.nii", b"x")}, 422, "a.exe must be an image (.nii, .nii.gz"),
    "damaged": ({"fixed": ("a.nii.gz", b"x" * 99), "moving": ("b.nii", b"x")}, 422, "a.nii.gz cannot be read"),
    "elsewhere": (
        {"fixed": ("a.mha", b"ObjectType = Image\nElementDataFile = /etc/passwd\n"), "moving": ("b.nii", b"x")},
        422,
        "a.mha must hold its values itself",
    ),
    "nrrd elsewhere": (
        {"fixed": ("a.nrrd", b"NRRD0004\ntype: uchar\ndata file: /etc/passwd\n"), "moving": ("b.nii", b"x")},
        422,
        "a.nrrd must hold its values itself",
    ),
    "zip": ({"fixed": ("a.zip", b"PK"), "moving": ("b.nii", b"x")}, 422, "cannot be read as a zip file"),
    "large": ({"fixed": ("a.nii", bytes(MOST)), "moving": ("b.nii", b"x")}, 413, "together must have 200000 bytes or"),
    "text": ({"fixed": ("", b"abc"), "moving": ("b.nii", b"x")}, 400, "fixed must be given as a file"),
    "path": ({"fixed": ("../../a b.nii", b"x"), "moving": ("b.nii", b"x")}, 422, "a_b.nii cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_registered_is_said(kind: str, server: Server, still: Still) -> None:
    files, status, message = BAD[kind]
    before = still.calls
    found, told = server.register(**files)
    assert found == status
    assert message in told["error"]
    assert "warpzoo-serve" not in told["error"]
    assert still.calls == before


def test_a_request_that_does_not_say_how_large_it_is_ends_at_the_limit(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="fixed"; filename="a.nii"\r\n\r\n'
        for _ in range(50):
            yield bytes(10_000)

    headers = {"content-type": "multipart/form-data; boundary=x", "transfer-encoding": "chunked"}
    try:
        status, content = server.ask("POST", "/register", endless(), headers)
    except (BrokenPipeError, ConnectionResetError):  # the answer may be there before all is sent
        return
    assert (status, b"together must have" in content) == (413, True)


def test_a_zip_that_unpacks_to_more_than_it_may_is_refused(server: Server) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("../../bomb.dcm", bytes(21 * MOST))
    status, told = server.register(fixed=("a.zip", packed.getvalue()), moving=("b.nii", b"x"))
    assert (status, told["error"]) == (422, f"a.zip must hold {20 * MOST} bytes or less.")


def test_an_image_that_is_packed_well_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((300, 200, 50), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    content = (tmp_path / "a.nii.gz").read_bytes()
    running = Server([Still()], most_voxels=1_000_000)
    try:
        status, told = running.register(fixed=("a.nii.gz", content), moving=("b.nii.gz", content))
    finally:
        running.close()
    assert len(content) < MOST / 2
    assert (status, told["error"]) == (
        422,
        "a.nii.gz must have 1000000 voxels or fewer here, got 300 × 200 × 50, 3000000.",
    )


def test_who_stops_sending_does_not_hold_a_place(pair: dict[str, Path]) -> None:
    running = Server([Still()], most_waiting=1, patience=0.5)
    head = b"POST /register HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n"
    try:
        with socket.create_connection(("127.0.0.1", running.port)) as quiet:
            quiet.sendall(head + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
            time.sleep(0.2)
            assert running.register(**named(pair))[0] == 503
            assert b"408" in quiet.recv(4000)
        assert running.register(**named(pair))[0] == 200
    finally:
        running.close()


def test_pairs_wait_for_their_turn_and_too_many_are_sent_away(pair: dict[str, Path]) -> None:
    method = Still()
    method.wait = 0.3
    running = Server([method], most_waiting=3)
    try:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: running.register(**named(pair)), range(6)))
        state = json.loads(running.ask("GET", "/state")[1])
    finally:
        running.close()
    assert sorted(status for status, _ in answers) == [200, 200, 200, 503, 503, 503]
    assert (method.most, method.calls, state["waiting"], state["done"]) == (1, 3, 0, 3)
    assert "wait already; try again later" in next(told["error"] for status, told in answers if status == 503)


def test_the_page_in_a_browser(server: Server, pair: dict[str, Path], tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra test)")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/")
        assert page.locator("#go").is_disabled()
        transfer = page.evaluate_handle(
            """files => {
                const transfer = new DataTransfer();
                for (const [name, bytes] of files) transfer.items.add(new File([new Uint8Array(bytes)], name));
                return transfer;
            }""",
            [["moving.nii.gz", [*pair["moving"].read_bytes()]], ["fixed.nii.gz", [*pair["fixed"].read_bytes()]]],
        )
        page.dispatch_event("label[for=fixed]", "drop", {"dataTransfer": transfer})
        assert "fixed.nii.gz" in page.locator("label[for=fixed]").inner_text()
        assert "moving.nii.gz" in page.locator("label[for=moving]").inner_text()
        page.click("#go")
        report = page.frame_locator("#report")
        report.locator("h1").wait_for(timeout=30_000)
        assert "moving.nii.gz" in report.locator("h1").inner_text()
        assert "ncc" in page.locator("#said").inner_text()
        with page.expect_download() as download:
            page.click("text=warped.nii.gz")
        download.value.save_as(tmp_path / "warped.nii.gz")
        assert nibabel.load(tmp_path / "warped.nii.gz").shape == (48, 56)
        page.set_input_files("#moving", {"name": "broken.nii", "mimeType": "", "buffer": b"nothing"})
        page.click("#go")
        page.locator("#said.bad").wait_for(timeout=30_000)
        assert "broken.nii cannot be read" in page.locator("#said").inner_text()
        chromium.close()
    assert problems == []
