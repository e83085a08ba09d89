"""Axis letters and the array types that cross a folder's border.

Letters: ``B`` batch of slices, ``C`` sequences (channels), ``K`` classes, ``D H W`` a volume, ``h w`` the token grid,
``n`` tokens, ``d_in`` activation width, ``m`` latents. A slice is ``H W``: rows run from anterior to posterior, columns
from the patient's right to left (as a radiologist sees an axial slice).
"""

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Images = Float[Tensor, "B C H W"]
"""Normalised slices, float32."""
Masks = UInt8[Tensor, "B H W"]
"""Label values, 0 is background."""
BrainMasks = Bool[Tensor, "B H W"]
"""True inside the brain (or, where nothing is stripped, inside the body)."""
Logits = Float[Tensor, "B K H W"]
Tokens = Float[Tensor, "n d_in"]
TokenGrid = Float[Tensor, "B h w d_in"]
"""The activation of a batch at a hookpoint, channels last whatever the layout inside the network."""
Rows = Int[Tensor, " B"]
"""Row numbers of slices in a SliceSet."""
