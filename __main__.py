"""Ships a new version of a service to some of its users: the weight in the stack's configuration says to how many."""

from __future__ import annotations

from datetime import UTC, datetime

import pulumi

import live
import reasons
import settings
import transforms
import transition
from components import (
    AmbientMesh,
    AmbientMeshArgs,
    FlaggerArgs,
    FlaggerTrain,
    PodTrain,
    PodTrainArgs,
    ReleaseTrain,
    ReleaseTrainArgs,
)

OUTPUTS = (
    "weight", "effectiveWeight", "phase", "since", "services", "gatewayUrl", "edgeDomain", "override",
    "windows", "rejected", "edge",
)  # fmt: skip

# What the stack asks for at this moment, and what is there.
now = datetime.now(UTC).replace(microsecond=0)
wanted = settings.load(now)
recorded = transition.recorded()
change = transition.decide(wanted, recorded, live.read(wanted.namespace, *settings.cluster_access()), now)

for transform in transforms.TRANSFORMS:
    pulumi.runtime.register_resource_transform(transform)
why = [reasons.hook(*settings.cluster_access())]

# The mesh, unless the cluster has one or none is asked for.
install = wanted.istio.install and wanted.strategy != "replicas"
mesh = [AmbientMesh("mesh", AmbientMeshArgs(settings=wanted, on_error=why))] if install else []

# The services, and the share of each that canary gets.
if wanted.services:
    train: ReleaseTrain | PodTrain | FlaggerTrain
    if wanted.strategy == "replicas":
        train = PodTrain("train", PodTrainArgs(settings=wanted, transition=change, on_error=why))
    elif wanted.strategy == "flagger":
        train = FlaggerTrain("train", FlaggerArgs(settings=wanted, after=mesh, on_error=why))
    else:
        train = ReleaseTrain("train", ReleaseTrainArgs(settings=wanted, transition=change, mesh=mesh, on_error=why))
    told = train.outputs(wanted)
    for name in OUTPUTS:
        pulumi.export(name, told[name])
