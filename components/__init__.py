"""The components of a canary stack."""

from components.flagger import FlaggerArgs, FlaggerTrain
from components.mesh import AmbientMesh, AmbientMeshArgs
from components.pods import PodTrain, PodTrainArgs
from components.train import ReleaseTrain, ReleaseTrainArgs

__all__ = [
    "AmbientMesh",
    "AmbientMeshArgs",
    "FlaggerArgs",
    "FlaggerTrain",
    "PodTrain",
    "PodTrainArgs",
    "ReleaseTrain",
    "ReleaseTrainArgs",
]
