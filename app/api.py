"""The HTTP API for programs: `POST /api/classify`, `GET /healthz` and `GET /metrics`.

curl http://127.0.0.1:7860/api/classify -H 'Content-Type: application/json' -d '{"text": "I hate you"}'
"""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.exceptions import HTTPException

from app.batching import BusyError
from app.models import Answer
from app.service import MAX_CHARACTERS, MAX_TEXTS, Service, is_blank


def _not_blank(text: str) -> str:
    if is_blank(text):
        raise ValueError("there is nothing to read: the text is empty or blank")
    return text


Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]


class ClassifyRequest(BaseModel):
    """One text or several."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"texts": ["I hate you", "See you tomorrow!"]}]}
    )

    text: Text | None = Field(default=None, description="A text. Give either this or `texts`.")
    texts: list[Text] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS, description="Several texts.")
    model: str | None = Field(default=None, description="Name of a model. Unset: the first one of `GET /healthz`.")

    @model_validator(mode="after")
    def _one_of_both(self):
        if (self.text is None) == (self.texts is None):
            raise ValueError("give either `text` or `texts`")
        return self


class Result(BaseModel):
    """What a model says about a text."""

    label: str = Field(description="The most probable class.")
    scores: dict[str, float] = Field(description="A probability for every class, by its name.")
    model: str = Field(description="Name of the model.")
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


def build_router(service: Service) -> APIRouter:
    """Returns the routes of the API."""
    router = APIRouter()

    @router.post(
        "/api/classify",
        response_model=ClassifyResponse,
        responses={
            400: {"model": Error, "description": "The body cannot be read, for example because it is not UTF-8."},
            408: {"model": Error, "description": "The body took too long to arrive."},
            413: {"model": Error, "description": "The body is too large."},
            422: {"model": Error, "description": "The body is not as described here; the message says where."},
            503: {"model": Error, "description": "Too many texts are waiting. Try again after `Retry-After` seconds."},
        },
    )
    async def classify(body: ClassifyRequest) -> JSONResponse:
        """Says which class one text or each of several belongs to."""
        if body.model is not None and body.model not in service.models:
            return error_response(422, f"model: there is no such model; there are {', '.join(service.models)}")
        name = body.model or service.default
        try:
            answers = await service.classify(body.texts or [body.text], name)
        except BusyError:
            return busy_response()
        # Not a `ClassifyResponse`, because FastAPI would check and encode the numbers again in every request.
        return JSONResponse({"results": [result(answer, name) for answer in answers]})

    @router.get("/healthz", response_model=Health)
    async def healthz() -> Health:
        """Says that the service is up, and which models it serves."""
        return Health(status="ok", models=list(service.models))

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Statistics for Prometheus."""
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    @router.api_route("/api/{name:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def refuse(name: str) -> JSONResponse:
        if name == "classify":
            return error_response(405, "Send the texts with POST.", {"Allow": "POST"})
        return error_response(404, "There is nothing here. GET /openapi.json describes what there is.")

    return router


def result(answer: Answer, model: str) -> dict:
    """Returns an answer in the form of a `Result`."""
    return {"label": answer.label, "scores": answer.scores, "model": model, "truncated": answer.truncated}


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
    """Returns a 422 that says where and why, without the text itself, because responses are often logged."""
    if isinstance(error.body, bytes):  # it was not parsed
        return error_response(422, "body: not announced as JSON. Send the header `Content-Type: application/json`")
    problems = error.errors()
    described = [f"{'.'.join(map(str, problem['loc'][1:])) or 'body'}: {problem['msg']}" for problem in problems[:3]]
    if len(problems) > 3:
        described.append(f"and {len(problems) - 3} more")
    message = "; ".join(described)
    # A key may hold half a surrogate pair, which is no text and cannot be sent.
    return error_response(422, message.encode(errors="replace").decode()[:1000])
