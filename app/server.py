"""The FastAPI application: page and API behind a guard with limits, security headers and statistics.

app = create_app(Service([load_model("outputs/toxic_comments-odd")], workers=2))
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import perspective
from app.api import CLASSIFY_PATH, Endpoint, build_router, error_response, explain_invalid, explain_refusal
from app.page import CSS, HEAD, SCRIPT, THEME, build_page
from app.service import MAX_BODY_BYTES, MAX_BODY_SECONDS, RETRY_AFTER_SECONDS, Service

API_PATHS = (
    CLASSIFY_PATH,
    "/healthz",
    "/metrics",
    "/openapi.json",
    perspective.ANALYZE_PATH,
    perspective.DISCOVERY_PATH,
)
# The routes of Gradio that the page needs. Others would serve files of this machine or fetch addresses.
GRADIO_PATH = "/gradio_api/"
PAGE_PATHS = tuple(GRADIO_PATH + name for name in ("app_id", "queue/", "startup-events", "upload"))
# Some scripts and styles of the page are inline. Nothing may come from, or go to, another server.
SECURITY_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
        b"form-action 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


def create_app(service: Service) -> ASGIApp:
    """Returns the application, which starts and stops the service: a `Guard` around FastAPI.

    Raises:
        ValueError: `attributes.json` of the first model is wrong.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    # FastAPI's documentation pages would load scripts from another server. /openapi.json remains.
    app = FastAPI(title="Text classifier", docs_url=None, redoc_url=None, lifespan=lifespan)
    router, classify = build_router(service)
    perspective_router, analyze = perspective.build_router(service)
    app.include_router(router)
    app.include_router(perspective_router)
    app.add_exception_handler(HTTPException, explain_refusal)
    gr.mount_gradio_app(
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
    # Gradio's handler would repeat the body in its answer, which fails where the body is no text.
    app.routes[-1].app.add_exception_handler(RequestValidationError, explain_invalid)
    # FastAPI's layers cost processor time in every request, so the guard calls these two functions itself.
    direct = {CLASSIFY_PATH: classify, perspective.ANALYZE_PATH: analyze}
    return Guard(app, service, direct)


class Guard:
    """Refuses large bodies, slow bodies and unneeded routes, adds the security headers, and counts requests.

    Args:
        direct: functions that answer POST requests to a path instead of the application.
    """

    def __init__(self, app: ASGIApp, service: Service, direct: Mapping[str, Endpoint]):
        self.app, self._service, self._direct = app, service, direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 499  # nginx's status for clients that hang up before the answer

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Here, because Gradio's queue answers 503 too.
                retry = [(b"retry-after", b"%d" % RETRY_AFTER_SECONDS)] if status == 503 else []
                # Gradio would let pages of all other servers read the answers.
                kept = (header for header in message["headers"] if not header[0].startswith(b"access-control-"))
                message["headers"] = [*kept, *SECURITY_HEADERS, *retry]
            await send(message)

        try:
            await self._answer(scope, receive, send_guarded)
        except Exception:
            if status == 499:  # a direct function has failed; FastAPI has answered itself
                await _error(scope, 500, "The server has failed.")(scope, receive, send_guarded)
            status = 500
            raise  # for the log
        finally:
            path = scope["path"] if scope["path"] in API_PATHS else "page"
            self._service.observe(path, status, started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(GRADIO_PATH) and not scope["path"].startswith(PAGE_PATHS):
            await error_response(404, "There is nothing here.")(scope, receive, send)
            return
        try:
            body = await _read_body(scope, receive)
        except HTTPException as error:
            await _error(scope, error.status_code, error.detail, {"Connection": "close"})(scope, receive, send)
            return
        if body[-1]["type"] == "http.disconnect":
            return
        handler, replayed = self.app, _replay(body, receive)
        if scope["method"] == "POST" and scope["path"] in self._direct:
            handler = await self._direct[scope["path"]](Request(scope, replayed))
        await handler(scope, replayed, send)


def _error(scope: Scope, status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Returns an error in the form of the API that the request is for."""
    in_form = perspective.error_response if scope["path"].startswith(perspective.PREFIX) else error_response
    return in_form(status, message, headers=headers)


async def _read_body(scope: Scope, receive: Receive) -> list[Message]:
    """Returns the messages with the body; the last one is a disconnect if the client hung up before the end.

    Raises:
        HTTPException: the body is too large, is announced as too large, or takes too long.
    """
    too_large = HTTPException(413, f"The body is larger than {MAX_BODY_BYTES:,} bytes.")
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if lengths and int(lengths[0]) > MAX_BODY_BYTES:
        raise too_large
    messages, size = [], 0
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            while not messages or messages[-1].get("more_body", False):
                messages.append(await receive())
                size += len(messages[-1].get("body", b""))
                if size > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"The body took longer than {MAX_BODY_SECONDS} seconds.") from None
    return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """Returns a `receive` that gives the messages again, and then the messages that follow."""
    rest = iter(messages)

    async def replayed() -> Message:
        return next(rest, None) or await receive()

    return replayed
