"""Ships a new version of a service to some of its users: the weight in the stack's configuration says to how many."""

from __future__ import annotations

import pulumi

import live
import reasons
import settings
import transforms
import transition
from components import AmbientMesh, AmbientMeshArgs, ReleaseTrain, ReleaseTrainArgs

OUTPUTS = ("weight", "effectiveWeight", "phase", "since", "services", "gatewayUrl", "edgeDomain", "override")

# What the stack asks for, and what is there.
wanted = settings.load()
recorded = transition.recorded()
change = transition.decide(wanted, recorded, live.read(wanted.namespace, *settings.cluster_access()))

for transform in transforms.TRANSFORMS:
    pulumi.runtime.register_resource_transform(transform)
why = [reasons.hook(*settings.cluster_access())]

# The mesh, unless the cluster has one.
mesh = [AmbientMesh("mesh", AmbientMeshArgs(settings=wanted, on_error=why))] if wanted.istio.install else []

# The services, and the share of each that canary gets.
if wanted.services:
    train = ReleaseTrain("train", ReleaseTrainArgs(settings=wanted, transition=change, mesh=mesh, on_error=why))
    told = train.outputs(wanted)
    for name in OUTPUTS:
        pulumi.export(name, told[name])
