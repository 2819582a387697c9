"""Conditions of a rule: what they accept, what Istio makes of them, and which rule hides which.

Facts about Envoy used here: a regular expression is RE2 and must match the whole value, header names do not care for
case and values do, repeated headers are joined with a comma before they are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import re2
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

if TYPE_CHECKING:
    from core.model import Rule, Service

LONGEST_REGEX = 1024
"""Bytes that Istio's validation lets a regular expression have."""

LONGEST_USER = (LONGEST_REGEX - len("^()$")) // len(r"\x00")
"""Bytes of a user name that fits whatever has to be escaped in it."""

MOST_USERS = 500
"""More than that is an audience, not a list."""

ANY = {"regex": ".*"}
"""Present with any value.  Istio's own word is an empty map, which the Kubernetes provider takes for a difference."""

RESERVED_HEADERS = ("x-deployment", "x-deployment-reason")
"""Stamps of the edge; the routes that read them are fixed."""


def _from_text(value: object) -> object:
    if isinstance(value, bool | int | float):
        raise ValueError(f"is no text for YAML; write it in quotes: '{str(value).lower()}'")
    return {"exact": value} if isinstance(value, str) else value


class StringMatch(BaseModel):
    """Istio's StringMatch: one of exact, prefix, regex; or `present` for any value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None
    present: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> StringMatch:
        if len(self.model_dump(exclude_none=True)) != 1 or self.present is False:
            raise ValueError("must hold one of exact, prefix, regex, or present: true")
        return self

    def spec(self) -> dict[str, str]:
        """As Istio writes it."""
        return ANY if self.present else self.model_dump(exclude_none=True)

    def accepts(self, value: str | None) -> bool:
        """True when a header or parameter with this value (None: absent) matches."""
        if value is None:
            return False
        if self.exact is not None:
            return value == self.exact
        if self.prefix is not None:
            return value.startswith(self.prefix)
        return self.regex is None or re2.fullmatch(self.regex, value) is not None

    def covers(self, other: StringMatch) -> bool:
        """True when every value that `other` accepts is surely accepted here."""
        if self == other or self.present:
            return True
        if other.exact is not None:
            return self.accepts(other.exact)
        return self.prefix is not None and other.prefix is not None and other.prefix.startswith(self.prefix)


Match = Annotated[StringMatch, BeforeValidator(_from_text, json_schema_input_type=StringMatch | str)]


def users_regexes(users: Iterable[str]) -> list[str]:
    """Anchored alternations over the escaped user names, in order, each as long as Istio takes at most."""
    found: list[list[str]] = []
    room = 0
    for name in map(re2.escape, users):
        size = len(name.encode()) + len("|")
        if size > room:
            found.append([])
            room = LONGEST_REGEX - len("^()$") + len("|")
        found[-1].append(name)
        room -= size
    return [f"^({'|'.join(names)})$" for names in found]


_NAME = r"(?:[\w-]|[^\x00-\x7f]|\\\W)+"
"""A user name as `users_regexes` writes it."""


def users_from_regex(regex: str) -> list[str] | None:
    """The names in one of the expressions of `users_regexes`; None for any other expression."""
    match = re.fullmatch(rf"\^\(({_NAME}(?:\|{_NAME})*)\)\$", regex)
    return [re.sub(r"\\(\W)", r"\1", name) for name in re.findall(_NAME, match[1])] if match else None


def cookie_regex(name: str, value: str) -> str:
    """The cookie header as a whole, with `name=value` anywhere in it."""
    return rf"^(.*; ?)?{re2.escape(name)}={re2.escape(value)}(;.*)?$"


def specs(rule: Rule, user_header: str) -> list[dict[str, Any]]:
    """The rule as HTTPMatchRequests: all conditions of one must hold, and one of them is enough.

    There is more than one only where a list of users is too long for one expression.
    """
    headers: dict[str, Any] = {name.lower(): match.spec() for name, match in rule.headers.items()}
    for name, value in rule.cookies.items():
        headers["cookie"] = {"regex": cookie_regex(name, value)}
    found: dict[str, Any] = {}
    if headers:
        found["headers"] = headers
    if rule.query:
        found["queryParams"] = {name: match.spec() for name, match in rule.query.items()}
    if rule.uri is not None:
        found["uri"] = rule.uri.spec()
    if rule.method is not None:
        found["method"] = {"exact": rule.method}
    lists = [{"headers": headers | {user_header: {"regex": regex}}} for regex in users_regexes(rule.users)]
    return [found | part for part in lists] or [found]


Problem = tuple[tuple[str | int, ...], object, str]
"""(path below the rule, value, text)."""


def problems(rule: Rule, service: Service) -> Iterator[Problem]:
    """Each condition of the rule that cannot be used, and each that could never hold."""
    identifying = rule.headers or rule.cookies or rule.query or rule.users
    if not identifying and rule.to == "canary":
        text = (
            "matches no header, cookie, query parameter or user, so it would send everybody to canary; add a condition"
        )
        yield (), rule.name, text
    elif not identifying and rule.uri is None and rule.method is None:
        yield (), rule.name, "matches everything; add a condition"
    yield from _header_problems(rule, service.user_header)
    for name, match in rule.query.items():
        yield from _text_problems(("query", name), match)
        if re.search(rf"{_ENCODED}|&", name + (match.exact or match.prefix or "")):
            text = "holds a character that a URL carries encoded, and Envoy compares it so; write %20 for a space"
            yield ("query", name), match.spec(), text
    if rule.uri is not None:
        yield from _text_problems(("uri",), rule.uri)
        path = rule.uri.exact or rule.uri.prefix
        if path and re.search(rf"^[^/]|\?|{_ENCODED}", path):
            text = "is no path; begin with /, write it as a URL carries it, and what follows ? as query"
            yield ("uri",), path, text
    if service.protocol == "grpc" and rule.query:
        yield ("query",), list(rule.query), "is no part of a gRPC call; match its metadata by headers"
    if service.protocol == "grpc" and rule.method not in (None, "POST"):
        yield ("method",), rule.method, "is never the method of a gRPC call, which is POST; match its path by uri"
    if len(rule.users) > MOST_USERS:
        text = f"lists more than {MOST_USERS} users; give them a header of their own and match that"
        yield ("users",), len(rule.users), text
    for index, user in enumerate(rule.users):
        if not 0 < len(user.encode()) <= LONGEST_USER:
            yield ("users", index), user, f"is no user; a name has 1 to {LONGEST_USER} bytes"


_ENCODED = r"[^!-~]|[\"<>#]"
"""Characters that a URL never holds as they are."""


def _header_problems(rule: Rule, user_header: str) -> Iterator[Problem]:
    for name, match in rule.headers.items():
        if name.lower() in RESERVED_HEADERS:
            yield ("headers", name), match.spec(), "belongs to the edge; choose another header"
        elif name.lower() == "host" or name.lower().startswith("x-envoy-"):
            yield ("headers", name), match.spec(), "does not reach the rules as it was sent; choose another header"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            yield ("headers", name), name, "is no header name; use letters, digits and hyphens"
        yield from _text_problems(("headers", name), match)
    for name, value in rule.cookies.items():
        if not re.fullmatch(r"[^\s;=,]+", name) or re.search(r"[\s;]", value):
            yield ("cookies", name), value, "is no cookie: names hold no =, neither holds a space or a semicolon"
    if rule.users and user_header in RESERVED_HEADERS:
        yield ("users",), user_header, "are read from a header of the edge; set userHeader to another"
    asked = [*map(str.lower, rule.headers), *("cookie" for _ in rule.cookies), *([user_header] if rule.users else [])]
    for name in sorted({name for name in asked if asked.count(name) > 1}):
        part = "cookies" if name == "cookie" else "headers"
        yield (part,), name, "is asked for twice in one rule, and Istio keeps one condition a header; use two rules"


def _text_problems(path: tuple[str | int, ...], match: StringMatch) -> Iterator[Problem]:
    if match.prefix == "":
        yield path, match.spec(), "has an empty prefix; use present: true"
    if match.regex is None:
        return
    if len(match.regex.encode()) > LONGEST_REGEX:
        yield path, match.regex, f"is longer than {LONGEST_REGEX} bytes; shorten the expression"
        return
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(match.regex, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        yield (
            path,
            match.regex,
            f"is no RE2 expression ({reason}); RE2 has no look-around and no back-references",
        )


def hides(earlier: Rule, later: Rule, user_header: str) -> bool:
    """True when each request that `later` matches is surely matched by `earlier`."""
    if earlier.method is not None and earlier.method != later.method:
        return False
    if earlier.uri is not None and (later.uri is None or not earlier.uri.covers(later.uri)):
        return False
    if not set(earlier.cookies.items()) <= set(later.cookies.items()):
        return False
    if any(name not in later.query or not match.covers(later.query[name]) for name, match in earlier.query.items()):
        return False
    if earlier.users and not _asks_for(earlier.users, later, user_header):
        return False
    theirs = {name.lower(): match for name, match in later.headers.items()}
    for name, match in earlier.headers.items():
        if name.lower() == user_header and later.users:
            if not all(map(match.accepts, later.users)):
                return False
        elif name.lower() not in theirs or not match.covers(theirs[name.lower()]):
            return False
    return True


def _asks_for(users: list[str], rule: Rule, user_header: str) -> bool:
    """True when the rule takes none but some of these users."""
    if rule.users:
        return set(rule.users) <= set(users)
    return any(name.lower() == user_header and match.exact in users for name, match in rule.headers.items())
