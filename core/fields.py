"""The types that settings are made of: what a value may look like, and the words for what is wrong with it."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from core import cidrs
from policies import weights, windows

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""RFC 1035 label, as Kubernetes wants it for a Service's name."""

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def _whole(value: object) -> object:
    """Whole numbers only; digit strings count, because `pulumi config set` writes strings."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
        return int(value)
    raise ValueError("must be a whole number")


def _weight(value: int) -> int:
    if problem := weights.weight_problem(value):
        raise ValueError(problem)
    return value


def _seconds(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value == 0:
        return 0
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) and value.strip() else None
    if match is None or not any(match.groups()):
        raise ValueError("must be a duration such as 90s, 15m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _name(value: str) -> str:
    if not LABEL.fullmatch(value):
        raise ValueError("must be lower-case letters, digits and hyphens, and start with a letter")
    return value


def _host(value: str) -> str:
    labels = value.split(".")
    if len(labels) < 2 or not all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", label) for label in labels):
        raise ValueError("must be a full DNS name in lower case without wildcards, such as shop.example.com")
    return value


def _image(value: str) -> str:
    if not re.fullmatch(r"[\w][\w.\-/:]*(@sha256:[0-9a-f]{64})?", value):
        raise ValueError("must be an image reference, such as registry.example.com/web:1.0.0@sha256:...")
    return value


def _moment(value: object) -> object:
    """Dates work quoted or not: YAML makes dates of the bare ones."""
    with suppress(ValueError):
        value = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(value, datetime):
        raise ValueError("must be a time such as 2026-12-18T09:00:00Z")
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _day(value: object) -> object:
    """Calendar days, quoted or not."""
    with suppress(ValueError):
        value = date.fromisoformat(value) if isinstance(value, str) else value
    if isinstance(value, datetime):
        value = value.date()
    if not isinstance(value, date):
        raise ValueError("must be a day such as 2026-12-18")
    return value


def _share(value: object) -> object:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value.strip()) if isinstance(value, str) else None
    if match is None or not 0 < float(match[1]) <= 100:
        raise ValueError("must be a share such as 1% or 0.5%")
    return float(match[1]) / 100


def _milliseconds(value: object) -> object:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(ms|s)", value.strip()) if isinstance(value, str) else None
    if match is None or not float(match[1]):
        raise ValueError("must be a time such as 500ms or 1.5s")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[\w.\-]+(:\d+)?(/\S*)?", value):
        raise ValueError("must be a URL such as http://prometheus.monitoring:9090")
    return value.rstrip("/")


def _window(value: str) -> str:
    windows.parse(value)
    return value


def _truth(value: object) -> object:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


_Digits = Annotated[str, Field(pattern=r"^ *-?\d+ *$")]
Whole = Annotated[int, BeforeValidator(_whole, json_schema_input_type=int | _Digits)]
Weight = Annotated[Whole, AfterValidator(_weight), Field(json_schema_extra={"minimum": 0, "maximum": 100})]
Positive = Annotated[Whole, Field(ge=1)]
Port = Annotated[Whole, Field(ge=1, le=65535)]
Seconds = Annotated[int, BeforeValidator(_seconds), Field(json_schema_extra={"type": ["string", "integer"]})]
_Word = Annotated[str, Field(pattern="^([Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$")]
Truth = Annotated[bool, BeforeValidator(_truth, json_schema_input_type=bool | _Word)]
Name = Annotated[str, AfterValidator(_name)]
Host = Annotated[str, AfterValidator(_host)]
Image = Annotated[str, AfterValidator(_image)]
Cidr = Annotated[str, AfterValidator(cidrs.checked)]
Header = Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$")]
Url = Annotated[str, AfterValidator(_url)]
Share = Annotated[float, BeforeValidator(_share), Field(json_schema_extra={"type": "string"})]
Milliseconds = Annotated[float, BeforeValidator(_milliseconds), Field(json_schema_extra={"type": "string"})]
Window = Annotated[str, AfterValidator(_window)]
Day = Annotated[date, BeforeValidator(_day)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


class Model(BaseModel):
    """Base of every part: camel case outside, snake case inside, unknown keys refused, nothing changes later."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)
