"""A case in the grid of a network, and the way back to its file."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Float32, UInt8
from numpy import float64, ndarray
from numpy.typing import NDArray

from seglens.shapes import Extent


@runtime_checkable
class NetworkVolume(Protocol):
    """A case as a network is shown it; every kind of model of others has its own."""

    @property
    def case(self) -> str:
        """Id of the case."""

    @property
    def values(self) -> Float32[ndarray, "C d h w"]:
        """Array that the network is shown, before it is padded."""

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Of the network's grid."""

    @property
    def extent(self) -> Extent:
        """Slices, rows and columns of the network's grid."""

    def crop_places(self, places: NDArray[float64]) -> NDArray[float64]:
        """Where places ``[n 3]`` of the network's grid lie in the file's array, its slowest axis first.

        Centres of voxels are whole numbers.
        """

    def restored(self, head: Float[ndarray, "d h w"]) -> Float[ndarray, "D H W"]:
        """One output for every voxel, on the grid on which it is decided."""

    def on_file_grid(self, mask: UInt8[ndarray, "D H W"]) -> UInt8[ndarray, "D H W"]:
        """A mask that was decided on such outputs, on the file's whole grid, its slowest axis first."""
