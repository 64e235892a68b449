"""The HTTP API for programs: `POST /api/classify`, `GET /healthz` and `GET /metrics`.

curl http://127.0.0.1:7860/api/classify -H 'Content-Type: application/json' -d '{"text": "I hate you"}'
"""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from starlette.exceptions import HTTPException

from app.batching import BusyError
from app.models import Answer, Model
from app.service import MAX_CHARACTERS, MAX_TEXTS, Service, is_blank

Endpoint = Callable[[Request], Awaitable[Response]]

CLASSIFY_PATH = "/api/classify"
EVERY_METHOD = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
NOT_ANNOUNCED = "body: not announced as JSON. Send the header `Content-Type: application/json`"
JSON_TYPE = re.compile(r"\s*application/(.+\+)?json\s*(;|$)", re.IGNORECASE)
# A character that is neither white space, nor a control, nor one of the usual invisible ones.
VISIBLE = r"[^\s\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"


def _not_blank(text: str) -> str:
    if is_blank(text):
        raise ValueError("there is nothing to read: the text is empty or blank")
    return text


# The pattern is for readers of the schema. It lets some blank texts pass that the validator refuses.
Text = Annotated[
    str,
    StringConstraints(max_length=MAX_CHARACTERS),
    AfterValidator(_not_blank),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS, "pattern": VISIBLE}),
]
Probability = Annotated[float, Field(ge=0, le=1)]


class ClassifyRequest(BaseModel):
    """One text or several. What is not given may not be null either."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"texts": ["I hate you", "See you tomorrow!"]}],
            "oneOf": [{"required": ["text"]}, {"required": ["texts"]}],
        },
    )

    text: Text = Field(default=None, description="A text. Give either this or `texts`.")
    texts: list[Text] = Field(default=None, min_length=1, max_length=MAX_TEXTS, description="Several texts.")
    model: str = Field(default=None, description="Name of a model. Unset: the first one of `GET /healthz`.")
    thresholds: dict[str, Probability] = Field(
        default=None,
        description="From which probability a text has a label, for some labels of a model with several. Unset: those "
        "that the model came with.",
    )

    @model_validator(mode="after")
    def _one_of_both(self):
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either `text` or `texts`")
        return self


class Result(BaseModel):
    """What a model says about a text."""

    label: str | None = Field(description="The most probable one of `labels`; null if the text has no label.")
    labels: list[str] = Field(description="The labels of the text: one, or any number if the model has several.")
    scores: dict[str, float] = Field(description="A probability for every label, by its name.")
    model: str = Field(description="Name of the model.")
    version: str | None = Field(description="Version of the model; null if it has none.")
    fingerprint: str = Field(description="SHA-256 of the file with the model's weights.")
    truncated: bool = Field(description="Whether the text is longer than the model reads.")


class ClassifyResponse(BaseModel):
    """A result for every text, in their order."""

    results: list[Result]


class Health(BaseModel):
    """What is being served."""

    status: str
    models: list[str] = Field(description="Names of the models; the first is the default.")


class Error(BaseModel):
    """What is wrong with a request."""

    error: str


def build_router(service: Service) -> tuple[APIRouter, Endpoint]:
    """Returns the routes of the API, and the function that answers `POST /api/classify` without FastAPI."""
    router = APIRouter()
    # The description names the models and their labels, so that it refuses what the server refuses.
    labels = tuple(dict.fromkeys(label for model in service.models.values() for label in model.labels))
    fields = {"model": Literal[tuple(service.models)], "thresholds": dict[Literal[labels], Probability]}
    described = {name: (kind, ClassifyRequest.model_fields[name]) for name, kind in fields.items()}
    Body = create_model("ClassifyRequest", __base__=ClassifyRequest, **described)

    @router.post(
        CLASSIFY_PATH,
        response_model=ClassifyResponse,
        responses={
            400: {"model": Error, "description": "The body cannot be read, for example because it is not UTF-8."},
            408: {"model": Error, "description": "The body took too long to arrive."},
            413: {"model": Error, "description": "The body is too large."},
            422: {"model": Error, "description": "The body is not as described here; the message says where."},
            503: {"model": Error, "description": "Too many texts are waiting. Try again after `Retry-After` seconds."},
        },
    )
    async def classify(body: Body) -> JSONResponse:
        """Says which class one text or each of several belongs to."""
        model = service.models[body.model or service.default]
        thresholds = body.thresholds or {}
        try:
            model.check_thresholds(thresholds)
        except ValueError as error:
            return error_response(422, f"thresholds: {error}")
        try:
            answers = await service.classify(body.texts or [body.text], model.name)
        except BusyError:
            return busy_response()
        if thresholds:
            answers = [answer.with_thresholds(thresholds) for answer in answers]
        # Not a `ClassifyResponse`, because FastAPI would check and encode the numbers again in every request.
        return JSONResponse({"results": [result(answer, model) for answer in answers]})

    async def classify_directly(request: Request) -> JSONResponse:
        try:
            body = await read_body(request, Body)
        except HTTPException as error:
            return error_response(error.status_code, error.detail)
        return await classify(body)

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", response_model=Health)
    async def healthz() -> Health:
        """Says that the service is up, and which models it serves."""
        return Health(status="ok", models=list(service.models))

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Statistics for Prometheus."""
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    @router.api_route("/api/{name:path}", methods=EVERY_METHOD, include_in_schema=False)
    async def refuse(name: str) -> JSONResponse:
        if name == "classify":
            return error_response(405, "Send the texts with POST.", {"Allow": "POST"})
        return error_response(404, "There is nothing here. GET /openapi.json describes what there is.")

    return router, classify_directly


async def read_body(request: Request, form: type[ClassifyRequest]) -> ClassifyRequest:
    """Reads a request to classify.

    Raises:
        HTTPException: it has not this form. The detail says where and why, without the text.
    """
    content = await request.body()
    if not content:
        raise HTTPException(422, "body: required, but there is none")
    if not JSON_TYPE.match(request.headers.get("content-type", "")):
        raise HTTPException(422, NOT_ANNOUNCED)
    try:
        return form.model_validate(json.loads(content))
    except ValidationError as error:
        raise HTTPException(422, describe(error.errors())) from None
    except json.JSONDecodeError as error:
        raise HTTPException(422, f"body: no JSON: {error.msg}, at character {error.pos}") from None
    except (ValueError, RecursionError):  # no UTF-8, a number of thousands of digits, brackets in brackets in brackets
        raise HTTPException(400, "There was an error parsing the body") from None


def result(answer: Answer, model: Model) -> dict:
    """Returns an answer in the form of a `Result`."""
    said = {"label": answer.label, "labels": answer.labels, "scores": answer.scores}
    return {**said, **model.identity, "truncated": answer.truncated}


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Returns a response that holds an `Error`."""
    return JSONResponse({"error": message}, status, headers)


def busy_response() -> JSONResponse:
    """Returns the response for a full queue; `server.Guard` adds when to try again."""
    return error_response(503, "Too many texts are waiting. Try again in a moment.")


async def explain_refusal(request: Request, error: HTTPException) -> JSONResponse:
    """Turns what FastAPI refuses into a response that holds an `Error`."""
    return error_response(error.status_code, error.detail, error.headers)


async def explain_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Returns a 422 that says where and why."""
    if isinstance(error.body, bytes):  # it was not parsed
        return error_response(422, NOT_ANNOUNCED)
    return error_response(422, describe([{**problem, "loc": problem["loc"][1:]} for problem in error.errors()]))


def describe(problems: Sequence[dict]) -> str:
    """Describes the errors of pydantic, without the text itself, because responses are often logged."""
    described = [f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in problems[:3]]
    further = [f"and {len(problems) - 3} more"] if len(problems) > 3 else []
    # A key may hold half a surrogate pair, which is no text and cannot be sent.
    return "; ".join(described + further).encode(errors="replace").decode()[:1000]
