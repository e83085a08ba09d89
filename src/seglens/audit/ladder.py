"""The ladder of scores from which Dice is predicted, from a constant up to latents; each is fitted inside a fold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from seglens.audit.volume_features import TEMPERATURES
from seglens.audit.volume_table import VolumeTable

COMPONENTS = 8
"""Principal components of pooled activations, at most; fewer of few volumes."""
CONSTANT = "constant"

Features = Callable[[VolumeTable, Int64[np.ndarray, " k"]], Float[np.ndarray, "n p"]]
"""From a table and the rows that may be fitted to, to features of all its rows."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Attributes:
        name: short.
        about: what it looks at, as a clause.
        features: what its regression is fitted to; nothing but the rows it is given is looked at to make them, apart
            from the others' own images.
    """

    name: str
    about: str
    features: Features


def _columns(*prefixes: str) -> Features:
    return lambda table, _rows: table.values(table.family(*prefixes))


def _none(table: VolumeTable, _rows: Int64[np.ndarray, " k"]) -> Float[np.ndarray, "n p"]:
    return np.zeros((len(table), 0))


def temperature_of(table: VolumeTable, rows: Int64[np.ndarray, " k"]) -> float:
    """The temperature at which the mean soft Dice of these rows is nearest to their mean true Dice."""
    true = table.values(["truth.dice"])[rows, 0]
    known = ~np.isnan(true)
    soft = table.values([f"sdc@{temperature}" for temperature in TEMPERATURES])[rows][known]
    return TEMPERATURES[int(np.abs(soft.mean(0) - true[known].mean()).argmin())]


def _soft_dice(table: VolumeTable, rows: Int64[np.ndarray, " k"]) -> Float[np.ndarray, "n p"]:
    prefix = f"sdc@{temperature_of(table, rows)}"
    return table.values([name for name in table.family(prefix) if name == prefix or name.startswith(f"{prefix}.")])


def _principal(values: Float[np.ndarray, "n d"], rows: Int64[np.ndarray, " k"]) -> Float[np.ndarray, "n p"]:
    """Leading principal components of standardised columns, both fitted to some rows."""
    from sklearn.decomposition import PCA

    if not values.shape[1]:
        return np.zeros(values.shape)
    centre, spread = values[rows].mean(0), values[rows].std(0)
    scaled = (values - centre) / np.where(spread > 1e-12, spread, np.inf)
    n_components = max(1, min(COMPONENTS, len(rows) // 3, values.shape[1]))
    return PCA(n_components, svd_solver="full").fit(scaled[rows]).transform(scaled)


def _dense(table: VolumeTable, rows: Int64[np.ndarray, " k"]) -> Float[np.ndarray, "n p"]:
    return _principal(table.dense.astype(float), rows)


def _latents(table: VolumeTable, rows: Int64[np.ndarray, " k"]) -> Float[np.ndarray, "n p"]:
    return _principal(table.latents.astype(float), rows)


def distances(table: VolumeTable, rows: Int64[np.ndarray, " k"]) -> Float[np.ndarray, " n"]:
    """Mahalanobis distance of each volume's pooled channels from those of some rows.

    Principal components, then a shrunk covariance (Ledoit and Wolf, 2004). A row among those has its distance from the
    others' folds, so that it is not nearer only because it was fitted to.
    """
    folds = table.folds
    found = _distances(table, rows)
    for fold in np.unique(folds[rows]):
        others = rows[folds[rows] != fold]
        if len(others) >= 3:
            own = rows[folds[rows] == fold]
            found[own] = _distances(table, others)[own]
    return found


def _distances(table: VolumeTable, rows: Int64[np.ndarray, " k"]) -> Float[np.ndarray, " n"]:
    from sklearn.covariance import LedoitWolf

    reduced = _dense(table, rows)
    if len(rows) < 3:
        return np.zeros(len(table))
    return np.sqrt(LedoitWolf().fit(reduced[rows]).mahalanobis(reduced))


def nearest(source: VolumeTable, target: VolumeTable, volume: str, n: int) -> list[tuple[str, float]]:
    """The source's volumes whose pooled channels are most like those of a target volume, with their true Dice.

    Args:
        source: its table.
        target: its table.
        volume: of the target.
        n: how many, at most.

    Returns:
        Volume and true Dice, the nearest first; volumes without a true Dice are left out.
    """
    rows = np.flatnonzero(~np.isnan(source.values(["truth.dice"])[:, 0]))
    reduced = _dense(source.beside(target), np.arange(len(source)))
    reduced = reduced / np.maximum(reduced[: len(source)].std(0), 1e-12)
    own = reduced[len(source) + target.rows["volume"].to_list().index(volume)]
    order = rows[np.linalg.norm(reduced[rows] - own, axis=1).argsort()][:n]
    names, dice = source.rows["volume"].to_list(), source.values(["truth.dice"])[:, 0]
    return [(names[place], float(dice[place])) for place in order]


def _mahalanobis(table: VolumeTable, rows: Int64[np.ndarray, " k"]) -> Float[np.ndarray, "n p"]:
    return np.log1p(distances(table, rows))[:, None]


def _together(*parts: Features) -> Features:
    return lambda table, rows: np.concatenate([part(table, rows) for part in parts], axis=1)


def _distortion(probe: str) -> Features:
    return _columns(f"distortion.{probe}_")


_AREA, _IMAGE, _TTA = _columns("area."), _columns("image."), _columns("tta.")

RUNGS: tuple[Rung, ...] = (
    Rung(CONSTANT, "the median Dice of the source, whatever the image", _none),
    Rung("area", "how much is predicted, of which class, in how many pieces", _AREA),
    Rung("image", "intensities, noise, sharpness and spacing of the image", _IMAGE),
    Rung("logits", "how sure the network is, in the lesion, at its border, everywhere", _columns("logits.")),
    Rung("soft Dice", "the Dice that the probabilities expect, with a temperature", _soft_dice),
    Rung("agreement", "how far the mask changes when the image is turned round or noise is added", _TTA),
    Rung("distance", "how far pooled activations lie from the source's (Mahalanobis)", _mahalanobis),
    Rung(
        "distortion, dictionary",
        "how far the mask changes by the dictionary's reconstruction",
        _distortion("dictionary"),
    ),
    Rung("distortion, components", "the same by principal components of equal variance", _distortion("components")),
    Rung("distortion, untrained", "the same by a dictionary as it is drawn", _distortion("untrained")),
    Rung("channels", "pooled activations, by principal components", _dense),
    Rung("latents", "pooled codes of the dictionary, by as many principal components", _latents),
    Rung("soft Dice + area", "both", _together(_soft_dice, _AREA)),
    Rung("soft Dice + area + image", "all three", _together(_soft_dice, _AREA, _IMAGE)),
    Rung(
        "all but activations",
        "soft Dice, area, logits, agreement, distance and distortion by components",
        _together(_soft_dice, _AREA, _columns("logits."), _TTA, _mahalanobis, _distortion("components")),
    ),
)
"""From the simplest up; of equal ones the simpler is taken."""


def rung_of(name: str) -> Rung:
    """The rung of that name."""
    by_name: Mapping[str, Rung] = {rung.name: rung for rung in RUNGS}
    return by_name[name]
