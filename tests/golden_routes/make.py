"""Write our compact form of recorded cases: `python -m tests.golden_routes.make [FOLDER]` (default:
../shared/istio-golden)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from tests.golden_routes.cases import HERE, SHARED, folder_cases


class _Short(yaml.SafeDumper):
    """Plain dumper without anchors, so that every file reads on its own."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def main(folder: Path) -> None:
    cases = folder_cases(folder)
    shared: dict[str, dict[str, object]] = {}
    for case in cases.values():
        answers = {}
        for probe in case.probes:
            shared.setdefault(probe["probe"], {k: probe[k] for k in ("probe", "method", "path", "headers", "requests")})
            answers[probe["probe"]] = {k: probe[k] for k in ("served_by", "response", "seen") if probe[k]}
            for key in ("method", "path", "headers", "requests"):
                if shared[probe["probe"]][key] != probe[key]:
                    answers[probe["probe"]][key] = probe[key]
        data = {"manifests": case.manifests, "answers": answers, "routes": case.routes, "clusters": case.clusters}
        if case.waypoint is not None:
            data["waypoint"] = case.waypoint
        text = yaml.dump(data, Dumper=_Short, sort_keys=False, width=140, default_flow_style=None)
        (HERE / f"{case.name}.yaml").write_text(text)
    (HERE / "probes.json").write_text(json.dumps(list(shared.values()), indent=1) + "\n")
    print(f"{len(cases)} cases written to {HERE}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else SHARED)
