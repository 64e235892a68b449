"""The form of Google's Perspective API: `POST /v1alpha1/comments:analyze` and its discovery document.

curl http://127.0.0.1:7860/v1alpha1/comments:analyze -H 'Content-Type: application/json' \
    -d '{"comment": {"text": "I hate you"}, "requestedAttributes": {"TOXICITY": {}}}'

Requests, answers and errors have the form that Perspective's documentation gives. The scores are those of the app's
first model. docs/PERSPECTIVE.md says what differs.
"""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from app.api import EVERY_METHOD, Endpoint
from app.batching import BusyError
from app.models import Answer, Model, read_json
from app.service import Service, is_blank

PREFIX = "/v1alpha1/"
ANALYZE_PATH = f"{PREFIX}comments:analyze"
DISCOVERY_PATH = "/$discovery/rest"
DISCOVERY = json.loads((Path(__file__).parent / "discovery.json").read_text(encoding="utf-8"))
ATTRIBUTES_FILE = "attributes.json"
# Labels of Jigsaw's and Civil Comments' data, by the attributes that Perspective has made of them. Every other label
# is an attribute of its own name in capitals, with underscores between words.
WELL_KNOWN = {
    "toxic": "TOXICITY",
    "target": "TOXICITY",
    "severe_toxic": "SEVERE_TOXICITY",
    "obscene": "PROFANITY",
    "identity_hate": "IDENTITY_ATTACK",
    "sexual_explicit": "SEXUALLY_EXPLICIT",
}
MAX_COMMENT_BYTES = 20_480
# Every span takes a run of the model. What follows the last but one is one span.
MAX_SPANS = 64
PLAIN_TEXT = "PLAIN_TEXT"
PROBABILITY = "PROBABILITY"
# A sentence ends with a mark before white space, perhaps with a closing mark in between; with a mark of a script that
# has no spaces; or with its line. The pattern takes one character after the other and never goes back, because texts
# may consist of marks alone.
END, CLOSING = "[.!?…؟।。！？]", "[\"'”’»)」』）]"
SENTENCE = re.compile(
    rf"\S[^\r\n]*?(?:(?:(?<={END})|(?<={END}{CLOSING}))(?=\s)|(?<=[。！？])(?!{END}|{CLOSING})|(?=[\r\n]|\Z))"
)
# Google's names of the statuses that this API answers with.
STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
}


class AnalyzeError(Exception):
    """A request that Perspective would refuse.

    Attributes:
        error_type: Perspective's name of the reason, for programs.
        details: what else it says about the reason.
    """

    def __init__(self, message: str, error_type: str = "INVALID_REQUEST", **details):
        super().__init__(message)
        self.error_type, self.details = error_type, details


_JSON = TypeAdapter(Any)


def _from_string(value: Any) -> Any:
    return _JSON.validate_json(value) if isinstance(value, str) else value


# Google reads both from strings too: "0.5", "true".
Number = Annotated[float, BeforeValidator(_from_string)]
Boolean = Annotated[bool, BeforeValidator(_from_string)]


class _Message(BaseModel):
    """As Google reads messages: names in camelCase or with underscores, no others, and null for what is not set."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields):
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}


class TextEntry(_Message):
    text: str = ""
    type: str = PLAIN_TEXT


class AttributeOptions(_Message):
    score_type: str = PROBABILITY
    score_threshold: Number | None = None


class AnalyzeRequest(_Message):
    """A request. What has no meaning here is read and ignored: the app stores no text and knows no conversation."""

    comment: TextEntry = Field(default_factory=TextEntry)
    requested_attributes: dict[str, AttributeOptions] = Field(default_factory=dict)
    languages: list[str] = Field(default_factory=list)
    span_annotations: Boolean = False
    drop_unsupported_attributes: Boolean = False
    client_token: str | None = None
    do_not_store: Boolean = False
    context: dict | None = None
    session_id: str | None = None
    community_id: str | None = None


class Span(NamedTuple):
    """A part of a comment, by its first character and the one after its last."""

    begin: int
    end: int

    def in_utf16(self, text: str) -> "Span":
        """Returns the span in UTF-16 code units, in which Perspective counts: an emoji has two."""
        return Span(*(len(text[:position].encode("utf-16-le")) // 2 for position in self))


def build_router(service: Service) -> tuple[APIRouter, Endpoint]:
    """Returns the routes but `ANALYZE_PATH`, and the function that answers requests to that one.

    Raises:
        ValueError: `attributes.json` of the first model names a label that the model does not have.
    """
    router = APIRouter(include_in_schema=False)
    model = service.models[service.default]
    attributes = read_attributes(model)

    async def analyze(request: Request) -> JSONResponse:
        try:
            asked = read_request(await request.body())
            check_request(asked, attributes)
            requested = supported_attributes(asked, model.languages)
            text = asked.comment.text
            spans = sentences(text) if asked.span_annotations else []
            whole, *parts = await service.classify([text, *(text[span.begin : span.end] for span in spans)])
        except AnalyzeError as error:
            return error_response(400, str(error), [{"errorType": error.error_type, **error.details}])
        except BusyError:
            return error_response(503, "Too many comments are waiting. Try again in a moment.")
        # Without annotations the comment is one span.
        scored = list(zip(spans, parts, strict=True)) or [(Span(0, len(text)), whole)]
        scored = [(span.in_utf16(text), answer) for span, answer in scored]
        scores = {
            name: attribute_scores(attributes[name], options, whole, scored) for name, options in requested.items()
        }
        response = {
            "attributeScores": {name: score for name, score in scores.items() if score},
            "languages": asked.languages or list(model.languages),
            "clientToken": asked.client_token,
        }
        return JSONResponse({name: value for name, value in response.items() if value is not None} | model.identity)

    @router.head(DISCOVERY_PATH)
    @router.get(DISCOVERY_PATH)
    async def discovery(request: Request) -> JSONResponse:
        """Describes the API to Google's client libraries, with the address that this request came to."""
        address = str(request.base_url)
        return JSONResponse(DISCOVERY | {"rootUrl": address, "baseUrl": address})

    @router.api_route(PREFIX + "{name:path}", methods=EVERY_METHOD)
    async def refuse(name: str) -> JSONResponse:
        if name == "comments:suggestscore":
            return error_response(501, "Suggested scores are not read: this server learns nothing from its users.")
        return error_response(404, f"There is nothing here. Send comments with POST to {ANALYZE_PATH}.")

    return router, analyze


def read_attributes(model: Model) -> dict[str, str]:
    """Returns the label of each attribute: as `attributes.json` in the model's folder has them, or all labels.

    The file maps labels to attributes: `{"toxic": "TOXICITY"}`. Labels that it leaves out cannot be requested.

    Raises:
        ValueError: the file is no such map, or names a label that the model does not have.
    """
    file = model.folder / ATTRIBUTES_FILE
    names = read_json(file) if file.is_file() else {label: default_attribute(label) for label in model.labels}
    if not names or not all(isinstance(name, str) and name for name in names.values()):
        raise ValueError(
            f'{file} must map labels to attributes, as {{"toxic": "TOXICITY"}}. Write or correct the file.'
        )
    for label in names:
        if label not in model.labels:
            raise ValueError(
                f"{file} names the label {label}, but the model has {', '.join(model.labels)}. Correct the file."
            )
    attributes = {attribute: label for label, attribute in names.items()}
    for label, attribute in names.items():
        if attributes[attribute] != label:
            raise ValueError(
                f"{file} must give each label an attribute of its own, but {attribute} is that of {label} and of "
                f"{attributes[attribute]}. Write or correct the file."
            )
    return attributes


def default_attribute(label: str) -> str:
    """Returns the attribute of a label that no file names: "identity hate" becomes `IDENTITY_ATTACK`."""
    name = re.sub(r"[\s-]+", "_", label.strip())
    return WELL_KNOWN.get(name.lower(), name.upper())


def read_request(body: bytes) -> AnalyzeRequest:
    """Reads a request, whatever it announces itself as.

    Raises:
        AnalyzeError: it is no JSON of the right form. The message says where, without the text.
    """
    try:
        return AnalyzeRequest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        names = [str(name)[:200] for name in problem["loc"]]
        said = f"{'.'.join(names)}: {problem['msg']}" if names else problem["msg"]
        if problem["type"] == "extra_forbidden":
            *parents, unknown = names
            place = f" at '{'.'.join(parents)}'" if parents else ""
            said = f'Unknown name "{unknown}"{place}: Cannot find field.'
        raise AnalyzeError(f"Invalid JSON payload received. {said}") from None


def check_request(asked: AnalyzeRequest, attributes: Collection[str]) -> None:
    """Refuses what Perspective refuses, with its messages.

    Args:
        attributes: those that can be requested.

    Raises:
        AnalyzeError: the comment or the list of attributes is empty, the comment is too long, or an attribute or its
            kind of score is unknown.
    """
    if asked.comment.type not in (PLAIN_TEXT, "TEXT_TYPE_UNSPECIFIED"):
        raise AnalyzeError("Currently, only 'PLAIN_TEXT' comments are supported")
    if is_blank(asked.comment.text):
        raise AnalyzeError("Comment must be non-empty.", "COMMENT_EMPTY")
    if len(asked.comment.text.encode()) > MAX_COMMENT_BYTES:
        raise AnalyzeError("Comment text too long.", "COMMENT_TOO_LONG")
    if not asked.requested_attributes:
        raise AnalyzeError("Missing requested_attributes", "NO_REQUESTED_ATTRIBUTES")
    for name, options in asked.requested_attributes.items():
        if name not in attributes:
            raise AnalyzeError(f"Unknown requested attribute: {name[:200]}")
        if options.score_type not in (PROBABILITY, "SCORE_TYPE_UNSPECIFIED"):
            raise AnalyzeError(f"Requested score type {options.score_type[:200]} is not supported by attribute {name}")


def supported_attributes(asked: AnalyzeRequest, languages: Sequence[str]) -> dict[str, AttributeOptions]:
    """Returns the requested attributes if the model reads the languages of the request.

    Otherwise there are none, if `dropUnsupportedAttributes` asks for that.

    Args:
        languages: those that the model reads; empty if it does not say, and then it reads all.

    Raises:
        AnalyzeError: the model does not read a language, and no attribute may be dropped.
    """
    foreign = [code for code in asked.languages if languages and not reads_language(languages, code)]
    if not foreign:
        return asked.requested_attributes
    if asked.drop_unsupported_attributes:
        return {}
    name = next(iter(asked.requested_attributes))
    raise AnalyzeError(
        f"Attribute {name} does not support request languages: {', '.join(foreign)[:200]}",
        "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
        languageNotSupportedByAttributeError={"requestedLanguages": foreign, "attribute": name},
    )


def reads_language(languages: Sequence[str], code: str) -> bool:
    """Returns whether the languages have the code, such as "pt-BR", or its part before the first hyphen."""
    code, known = code.lower(), {language.lower() for language in languages}
    return code in known or code.partition("-")[0] in known


def sentences(text: str) -> list[Span]:
    """Returns the sentences of a text that is not blank, without the white space between them, at most `MAX_SPANS`."""
    found = ((match.start(), match[0].rstrip()) for match in SENTENCE.finditer(text))
    spans = [Span(begin, begin + len(sentence)) for begin, sentence in found]
    if len(spans) > MAX_SPANS:
        spans[MAX_SPANS - 1 :] = [Span(spans[MAX_SPANS - 1].begin, spans[-1].end)]
    return spans


def attribute_scores(
    label: str, options: AttributeOptions, whole: Answer, parts: Sequence[tuple[Span, Answer]]
) -> dict:
    """Returns the scores of an attribute for the whole comment and its spans, without those below the threshold."""

    def is_wanted(answer: Answer) -> bool:
        return options.score_threshold is None or answer.scores[label] >= options.score_threshold

    def score(answer: Answer) -> dict:
        return {"value": answer.scores[label], "type": PROBABILITY}

    spans = [{**span._asdict(), "score": score(part)} for span, part in parts if is_wanted(part)]
    found = {"spanScores": spans} if spans else {}
    if is_wanted(whole):
        found["summaryScore"] = score(whole)
    return found


def error_response(
    status: int, message: str, details: Sequence[dict] = (), headers: dict[str, str] | None = None
) -> JSONResponse:
    """Returns an error in Google's form."""
    error = {"code": status, "message": message, "status": STATUS_NAMES[status]}
    if details:
        kind = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
        error["details"] = [{"@type": kind, **entry} for entry in details]
    return JSONResponse({"error": error}, status, headers)
