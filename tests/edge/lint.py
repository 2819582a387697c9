"""What njs 0.7.9 takes and CloudFront's runtime 2.0 does not have, by the list in the developer guide.

The guide lists all that there is; so what is called has to be on the list, as far as the functions need it, and what
has no name is looked for by its form.  Strings, templates and comments are blanked first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST = 10_240

GLOBALS = {
    "Error", "Infinity", "JSON", "Math", "NaN", "Number", "Object", "String", "Array", "arguments", "console",
    "isFinite", "isNaN", "parseFloat", "parseInt", "require", "undefined",
}  # fmt: skip
MODULES = {"crypto", "querystring", "buffer"}
METHODS = {
    # objects, arrays and texts
    "keys", "assign", "entries", "values", "hasOwnProperty", "isArray", "indexOf", "lastIndexOf", "join", "push", "pop",
    "slice", "concat", "map", "filter", "some", "every", "forEach", "sort", "charAt", "charCodeAt", "split", "match",
    "replace", "substring", "toLowerCase", "toUpperCase", "trim", "startsWith", "endsWith", "includes", "repeat",
    "padStart", "padEnd", "toString", "test", "exec",
    # Number, JSON and Math
    "isInteger", "isFinite", "isNaN", "isSafeInteger", "parse", "stringify", "floor", "min", "max", "imul", "abs",
    # modules
    "createHash", "update", "digest", "kvs", "get", "exists", "meta", "logCustomData", "log",
}  # fmt: skip

FORMS = {
    r"\?\?": "`??` is not on the list",
    r"\?\.(?!\d)": "`?.` is not on the list",
    r"\.\.\.(?!\w+\s*\))": "spread is not on the list",
    r"\b(class|yield|of|import\s*\(|with|debugger)\b": "is not on the list",
    r"\b(get|set|async)\s+\w+\s*\([^)]*\)\s*\{": "accessors and async methods are not on the list",
    r"[{,]\s*(?!if\b|for\b|while\b|switch\b)\w+\s*\([^)]*\)\s*\{": "methods in object literals are not on the list",
    r"[{,]\s*\[[^\]]+\]\s*:": "computed properties are not on the list",
    r"\basync\s*(\([^)]*\)|\w+)\s*=>": "async closures are not supported",
    r"[\w$)\]]\s*`": "tagged templates are not on the list",
    r"\bconsole\.log\([^()]*(\([^()]*\)[^()]*)*,": "console.log takes one argument",
    r"\bnew\s+Function\b|\beval\b": "throws",
    r"\b(setTimeout|setImmediate|clearTimeout|process|global|njs|ngx)\b": "is not there",
    r"\breplaceAll\b": "njs 0.7.9 has none, so it cannot be tried",
    r"\(\s*(\w+\s*,\s*)*\w+\s*=[^=>][^)]*\)\s*(=>|\{)": "default parameters are not on the list",
    r"\b(const|let|var)\s*[\[{]": "destructuring is not on the list",
    r"(?<!\w)\w[\w.]*\([^()]*\bawait\b": "`await` in arguments makes every request a 503",
    r"\.headers\[[^\]]+\]\.value\s*=[^=]": "other values of a header sent twice would stay",
}  # fmt: skip
_KEYWORDS = {"if", "for", "while", "switch", "catch", "function", "return", "typeof", "delete", "await", "new", "throw"}
_BLANKED = re.compile(
    r"""//[^\n]*|/\*.*?\*/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`"""
    r"""|(?<=[=(,:!&|?{};\s])/(?![/*\s])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+/[a-z]*""",
    re.DOTALL,
)


def problems(code: str) -> Iterator[str]:
    """What CloudFront would not take of a function."""
    if len(code.encode()) > LONGEST:
        yield f"{len(code.encode())} bytes, and {LONGEST} is the most"
    for module in re.findall(r"\bfrom\s+['\"]([^'\"]+)['\"]", code):
        if module != "cloudfront":
            yield f"import of {module}: only cloudfront is imported"
    for module in re.findall(r"\brequire\(\s*([^)]*)\)", code):
        if module.strip("'\"") not in MODULES:
            yield f"require({module}): only {', '.join(sorted(MODULES))}"
    bare = _BLANKED.sub(_blank, code)
    for form, why in FORMS.items():
        for found in re.finditer(form, bare):
            yield f"line {bare.count(chr(10), 0, found.start()) + 1}: {found[0].strip()!r}: {why}"
    for name in sorted(set(re.findall(r"\.(\w+)\s*\(", bare)) - METHODS):
        yield f".{name}(): is not on the list, or not yet on ours"
    own = set(re.findall(r"\bfunction\s+(\w+)", bare)) | set(re.findall(r"\b(?:const|let|var|import)\s+(\w+)", bare))
    own |= {word for inside in re.findall(r"\bfunction\b[^(]*\(([^)]*)\)", bare) for word in re.findall(r"\w+", inside)}
    called = set(re.findall(r"(?<![\w.])([A-Za-z_]\w*)\s*[(.]", bare)) - _KEYWORDS - own
    for name in sorted(called - GLOBALS - {"error", "cf"}):
        yield f"{name}: is no global of the runtime"


def _blank(found: re.Match[str]) -> str:
    text = found[0]
    quote = text[0] if text[0] in "'\"`" else " "
    return quote + re.sub(r"[^\n]", " ", text[1:-1]) + quote
