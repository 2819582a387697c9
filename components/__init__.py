"""The components of a canary stack."""

from components.flagger import FlaggerTrain, FlaggerTrainArgs
from components.mesh import AmbientMesh, AmbientMeshArgs
from components.train import ReleaseTrain, ReleaseTrainArgs

__all__ = ["AmbientMesh", "AmbientMeshArgs", "FlaggerTrain", "FlaggerTrainArgs", "ReleaseTrain", "ReleaseTrainArgs"]
