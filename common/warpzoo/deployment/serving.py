"""Registration over HTTP: two files in, results out, one pair at a time.

`POST /register` with the files fixed and moving answers with a zip file of the results, or, if the request accepts
JSON, with numbers and addresses of the results, of which the latest are kept. `GET /` is a page to drop two files on.
Whatever goes wrong is answered with one sentence, {"error": …}.
"""

from __future__ import annotations

import asyncio
import io
import re
import secrets
import shutil
import tempfile
import traceback
import zipfile
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from warpzoo.deployment.application.dicom_objects import Maker
from warpzoo.deployment.application.inputs import SIDES
from warpzoo.deployment.application.results import write_dicom
from warpzoo.deployment.uploads import check_voxels, store
from warpzoo.errors import FAILURES, plain_reason
from warpzoo.registration.computing import computing
from warpzoo.registration.listing import list_pairs, read_pair
from warpzoo.registration.pair import Method, register_pair
from warpzoo.registration.results import read_numbers, summary, write_results
from warpzoo.training.cache import free_memory

PAGE = Path(__file__).with_name("templates") / "page.html"
PATIENCE = 30.0
BYTES_PER_VOXEL = 64
"""Of an image, about, that its registration takes."""
KEPT = 20
"""Results of the latest registrations that were asked for by a page."""


@dataclass
class Service:
    """Registers pairs one after the other in a thread of its own.

    most_bytes: of a request.
    most_waiting: how many pairs may wait for their turn.
    gaining: whether what a method finds is left out if it does not help.
    most_voxels: of an image, which may be packed well.
    budget: seconds for the methods of a pair.
    patience: seconds in which a client must go on sending.
    """

    methods: Sequence[Method]
    name: str
    version: str
    most_bytes: int
    most_waiting: int
    gaining: bool
    folder: Path
    most_voxels: int
    budget: float | None = None
    patience: float = PATIENCE
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    kept: deque[str] = field(default_factory=deque)
    waiting: int = 0
    done: int = 0
    failed: int = 0

    async def answer(self, request: Request) -> Response:
        if self.waiting >= self.most_waiting:
            raise HTTPException(503, f"{self.waiting} pairs wait already; try again later.")
        self.waiting += 1
        name = secrets.token_hex(8)
        try:
            response = await self._answer(request, name)
            self.done += 1
            return response
        except BaseException:
            self.failed += 1
            shutil.rmtree(self.folder / name, ignore_errors=True)
            raise
        finally:
            self.waiting -= 1

    async def _answer(self, request: Request, name: str) -> Response:
        folder, out = self.folder / name, self.folder / name / "out"
        loop = asyncio.get_running_loop()
        async with self._limited(request).form(max_files=2, max_fields=2) as form:
            uploads = {side: form.get(side) for side in SIDES}
            for side, upload in uploads.items():
                if not isinstance(upload, UploadFile) or not upload.filename:
                    raise HTTPException(400, f"{side} must be given as a file; the request must have fixed and moving.")
            async with self.turn:
                if await request.is_disconnected():
                    raise HTTPException(499, "the request was given up.")
                numbers = await loop.run_in_executor(self.worker, self._register, uploads, folder, out)
        if "application/json" not in request.headers.get("accept", ""):
            content = await loop.run_in_executor(self.worker, _zipped, out)
            shutil.rmtree(folder)
            headers = {"content-disposition": 'attachment; filename="registered.zip"'}
            return Response(content, media_type="application/zip", headers=headers)
        self.kept.append(name)
        while len(self.kept) > KEPT:
            shutil.rmtree(self.folder / self.kept.popleft(), ignore_errors=True)
        files = {path.name: f"/results/{name}/{path.name}" for path in sorted(out.iterdir())}
        return JSONResponse({"summary": summary(numbers), "warnings": numbers["warnings"], "files": files}, 201)

    def _register(self, uploads: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
        paths = {side: store(one.file, one.filename, folder / side, self.most_bytes) for side, one in uploads.items()}
        for path in paths.values():
            check_voxels(path, self.most_voxels)
        files = list_pairs(fixed=str(paths["fixed"]), moving=str(paths["moving"]))[0]
        with computing():
            registration = register_pair(
                **read_pair(files),
                methods=self.methods,
                interruptible=False,
                gaining=self.gaining,
                budget=self.budget,
            )
            write_results(out, registration, files, {"method": self.name})
        write_dicom(registration, paths, Maker(self.name[:64], self.version), out, out / "report.png")
        for side in SIDES:
            shutil.rmtree(folder / side)
        return read_numbers(out)

    def _limited(self, request: Request) -> Request:
        """The request, which ends with 413 once it is larger than it may be, and with 408 where nothing comes."""
        too_large = HTTPException(413, f"fixed and moving together must have {self.most_bytes} bytes or less.")
        try:
            stated = int(request.headers.get("content-length", "0"))
        except ValueError as error:
            raise HTTPException(400, "content-length must be a number.") from error
        if stated > self.most_bytes:
            raise too_large
        received = 0

        async def receive() -> Any:
            nonlocal received
            try:
                message = await asyncio.wait_for(request.receive(), self.patience)
            except asyncio.TimeoutError as error:
                raise HTTPException(408, f"nothing came for {self.patience:g} s; send the files again.") from error
            received += len(message.get("body", b""))
            if received > self.most_bytes:
                raise too_large
            return message

        return Request(request.scope, receive)

    async def result(self, request: Request) -> Response:
        name, file = request.path_params["name"], request.path_params["file"]
        path = self.folder / name / "out" / file
        if name not in self.kept or path.name != file or not path.is_file():
            raise HTTPException(404, f"{file} is not there; the results of the latest {KEPT} registrations are kept.")
        return FileResponse(path, headers={"content-security-policy": "sandbox allow-scripts"})

    async def state(self, request: Request) -> Response:
        counts = {"waiting": self.waiting, "done": self.done, "failed": self.failed}
        return JSONResponse({"method": self.name, "version": self.version, **counts})

    async def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))


def service_application(
    methods: Sequence[Method],
    name: str,
    version: str,
    most_bytes: int,
    most_waiting: int,
    gaining: bool = False,
    **limits: Any,
) -> Starlette:
    """What a server of ASGI such as uvicorn runs; `limits` are those of `Service`. `state.service` is that."""
    folder = tempfile.TemporaryDirectory(prefix="warpzoo-serve-", ignore_cleanup_errors=True)
    limits.setdefault("most_voxels", int(free_memory() / BYTES_PER_VOXEL))
    service = Service(methods, name, version, most_bytes, most_waiting, gaining, Path(folder.name), **limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.worker.shutdown(wait=False, cancel_futures=True)
        folder.cleanup()

    application = Starlette(
        routes=[
            Route("/", service.page),
            Route("/state", service.state),
            Route("/register", service.answer, methods=["POST"]),
            Route("/results/{name}/{file}", service.result),
        ],
        exception_handlers={HTTPException: _said, ClientDisconnect: _gone, Exception: _unknown}
        | dict.fromkeys(FAILURES, _failed),
        lifespan=lifespan,
    )
    application.state.service = service
    return application


def _said(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)


def _gone(request: Request, error: Exception) -> Response:
    """Nobody is there to read it."""
    return Response(status_code=499)


def _failed(request: Request, error: Exception) -> Response:
    """Files or settings that cannot be used, without the folders of this machine."""
    return JSONResponse({"error": _without_folders(plain_reason(error))}, 422)


def _unknown(request: Request, error: Exception) -> Response:
    """A bug: the command has silenced logging, so its traceback is printed here."""
    traceback.print_exception(error)
    return JSONResponse({"error": f"the server failed ({type(error).__name__}); its log says where."}, 500)


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as zipped:
        for path in sorted(folder.iterdir()):
            zipped.write(path, path.name)
    return buffer.getvalue()


def _without_folders(sentence: str) -> str:
    return re.sub(r"\S*warpzoo-serve-\w+/[0-9a-f]{16}/(?:fixed|moving|out)/", "", sentence)
