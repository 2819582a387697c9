"""Conditions of a rule: what they accept, what Istio makes of them, and which rule hides which.

Facts about Envoy used here: a regular expression is RE2 and must match the whole value, header names do not care for
case and values do, repeated headers are joined with a comma before they are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import re2
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

if TYPE_CHECKING:
    from core.model import Rule

LONGEST_REGEX = 1024
"""Bytes that Istio's validation lets a regular expression have."""

MOST_USERS = 500
"""More than that is an audience, not a list."""

ANY = {"regex": ".*"}
"""Present with any value.  Istio's own word is an empty map, which the Kubernetes provider takes for a difference."""

RESERVED_HEADERS = ("x-deployment", "x-deployment-reason")
"""Stamps of the edge; the routes that read them are fixed."""


def _from_text(value: object) -> object:
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


def users_regex(users: list[str]) -> str:
    """One anchored alternation over the escaped user names."""
    return f"^({'|'.join(re2.escape(user) for user in users)})$"


def users_from_regex(regex: str) -> list[str] | None:
    """Inverse of `users_regex` for names without escapes; None for any other expression."""
    match = re.fullmatch(r"\^\(([\w|-]+)\)\$", regex)
    return match[1].split("|") if match else None


def cookie_regex(name: str, value: str) -> str:
    """The cookie header as a whole, with `name=value` anywhere in it."""
    return rf"^(.*; ?)?{re2.escape(name)}={re2.escape(value)}(;.*)?$"


def spec(rule: Rule, user_header: str) -> dict[str, Any]:
    """The rule as one HTTPMatchRequest; all conditions must hold."""
    headers: dict[str, Any] = {name.lower(): match.spec() for name, match in rule.headers.items()}
    if rule.users:
        headers[user_header] = {"regex": users_regex(rule.users)}
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
    return found


def problems(rule: Rule) -> Iterator[tuple[tuple[str | int, ...], object, str]]:
    """(path below the rule, value, text) of each condition that cannot be used."""
    identifying = rule.headers or rule.cookies or rule.query or rule.users
    if not identifying and rule.to == "canary":
        text = (
            "matches no header, cookie, query parameter or user, so it would send everybody to canary; add a condition"
        )
        yield (), rule.name, text
    elif not identifying and rule.uri is None and rule.method is None:
        yield (), rule.name, "matches everything; add a condition"
    for name, match in rule.headers.items():
        if name.lower() in RESERVED_HEADERS:
            yield ("headers", name), match.spec(), "belongs to the edge; choose another header"
        if not re.fullmatch(r"[A-Za-z0-9-]+", name):
            yield ("headers", name), name, "is no header name; use letters, digits and hyphens"
        yield from _text_problems(("headers", name), match)
    for name, match in rule.query.items():
        yield from _text_problems(("query", name), match)
    if rule.uri is not None:
        yield from _text_problems(("uri",), rule.uri)
    if len(rule.cookies) > 1 or (rule.cookies and "cookie" in {name.lower() for name in rule.headers}):
        yield (
            ("cookies",),
            list(rule.cookies),
            "asks for two conditions on one header, Istio keeps one; use two rules",
        )
    if len(rule.users) > MOST_USERS:
        text = f"lists more than {MOST_USERS} users; give them a header of their own and match that"
        yield ("users",), len(rule.users), text
    elif rule.users and len(users_regex(rule.users).encode()) > LONGEST_REGEX:
        text = f"makes an expression longer than {LONGEST_REGEX} bytes; split it into several rules"
        yield ("users",), len(rule.users), text


def _text_problems(
    path: tuple[str | int, ...], match: StringMatch
) -> Iterator[tuple[tuple[str | int, ...], object, str]]:
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
    mine, theirs = _header_sets(earlier, user_header), _header_sets(later, user_header)
    return all(
        name in theirs and all(any(match.covers(value) for match in accepted) for value in theirs[name])
        for name, accepted in mine.items()
    )


def _header_sets(rule: Rule, user_header: str) -> dict[str, list[StringMatch]]:
    found = {name.lower(): [match] for name, match in rule.headers.items()}
    if rule.users:
        found[user_header] = [StringMatch(exact=user) for user in rule.users]
    return found
