"""Page and API in one FastAPI application, with what guards both: body limit, security headers, counted requests."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import build_router, error_response, explain_invalid
from app.page import CSS, HEAD, SCRIPT, THEME, build_page
from app.service import MAX_BODY_BYTES, Service

API_PATHS = ("/api/classify", "/healthz", "/metrics", "/openapi.json")
# Gradio also serves files of this machine and fetches addresses for whoever asks. The page needs no more than this.
GRADIO_PATH = "/gradio_api/"
PAGE_PATHS = tuple(GRADIO_PATH + name for name in ("app_id", "queue/", "startup-events", "upload"))
# The page's own scripts and styles are inline in part; nothing may come from, or go to, anywhere else.
SECURITY_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


def create_app(service: Service) -> FastAPI:
    """The application; the service runs while the application does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    # FastAPI's own documentation pages would load their scripts from elsewhere; /openapi.json is there.
    app = FastAPI(title="Text classifier", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(build_router(service))
    app.add_exception_handler(RequestValidationError, explain_invalid)
    app.add_middleware(Guard, service=service)
    return gr.mount_gradio_app(
        app,
        build_page(service),
        path="/",
        theme=THEME,
        css=CSS,
        js=SCRIPT,
        head=HEAD,
        footer_links=[],
        max_file_size=MAX_BODY_BYTES,
        show_error=True,
        run_history=False,
        ssr_mode=False,
    )


class Guard:
    """Refuses large bodies and what the page never asks, adds the security headers, and counts requests."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SECURITY_HEADERS]
            await send(message)

        try:
            await self._answer(scope, receive, send_guarded)
        finally:
            path = scope["path"] if scope["path"] in API_PATHS else "page"
            self._service.observe(path, status, started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(GRADIO_PATH) and not scope["path"].startswith(PAGE_PATHS):
            await error_response(404, "There is nothing here.")(scope, receive, send)
            return
        body = await _read_body(scope, receive)
        if body is None:
            message = f"The body is larger than {MAX_BODY_BYTES:,} bytes."
            await error_response(413, message, {"Connection": "close"})(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body; `None` as soon as it is, or says that it will be, too large."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if lengths and int(lengths[0]) > MAX_BODY_BYTES:
        return None
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, and then what comes after it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
