"""Ships a new version of a service to some of its users: the weight in the stack's configuration says to how many."""

from __future__ import annotations

import pulumi

import live
import settings
import transition
from components import AmbientMesh, AmbientMeshArgs, FlaggerTrain, FlaggerTrainArgs, ReleaseTrain, ReleaseTrainArgs

OUTPUTS = ("weight", "effectiveWeight", "phase", "since", "services", "gatewayUrl", "edgeDomain", "override")

# What the stack asks for, and what is there.
wanted = settings.load()
recorded = transition.recorded()
change = transition.decide(wanted, recorded, live.read(wanted.namespace, *settings.cluster_access()))

# The mesh, unless the cluster has one.
mesh = [AmbientMesh("mesh", AmbientMeshArgs(settings=wanted))] if wanted.istio.install else []

# The services, and the share of each that canary gets.
if wanted.services:
    train: ReleaseTrain | FlaggerTrain
    if wanted.strategy == "flagger":
        train = FlaggerTrain("train", FlaggerTrainArgs(settings=wanted, mesh=mesh))
    else:
        train = ReleaseTrain("train", ReleaseTrainArgs(settings=wanted, transition=change, mesh=mesh))
    told = train.outputs(wanted)
    for name in OUTPUTS:
        pulumi.export(name, told[name])
