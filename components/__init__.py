"""The components of a canary stack."""

from components.mesh import AmbientMesh, AmbientMeshArgs
from components.pods import PodTrain, PodTrainArgs
from components.train import ReleaseTrain, ReleaseTrainArgs

__all__ = ["AmbientMesh", "AmbientMeshArgs", "PodTrain", "PodTrainArgs", "ReleaseTrain", "ReleaseTrainArgs"]
