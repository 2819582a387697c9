"""The policy pack `canary`: `pulumi preview --policy-pack policies`.  What it says is in docs/policies.md."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path


def _named() -> None:
    """Makes this folder the package `policies`, whatever it is called where the pack was put."""
    folder = Path(__file__).parent
    spec = util.spec_from_file_location("policies", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    sys.modules["policies"] = util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["policies"])


if __name__ == "__main__":
    _named()
    from policies import pack

    pack.serve()
