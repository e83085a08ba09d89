"""Tables of features without a network: what is in them is planted."""

import numpy as np
import polars as pl

from seglens.audit.hospitals import SOURCE, TARGET
from seglens.audit.volume_features import TEMPERATURES
from seglens.audit.volume_table import VolumeTable, folds_of


def table_of(n, *, seed=0, told=1.0, hospital=None, loss=0.0, shift=0.0, masks=True, volumes_each=1, prefix="p"):
    """Volumes whose Dice is seen in the soft Dice (with weight ``told``), and nothing else that speaks of it.

    Args:
        n: patients.
        seed: of all numbers.
        told: share of the Dice's logit that the soft Dice shows; 0: none.
        hospital: name; None: the source with masks, else the target.
        loss: of the Dice's logit, seen in the soft Dice as the rest is.
        shift: of the image's noise and of all channels, in standard deviations.
        masks: with the true Dice.
        volumes_each: of a patient.
        prefix: of patients' names.
    """
    random = np.random.default_rng(seed)
    total = n * volumes_each
    odds = random.normal(1.0, 0.8, total) - loss
    shown = told * odds + (1 - told) * random.normal(1.0, 0.8, total) + random.normal(0, 0.1, total)
    names = [f"{prefix}{number // volumes_each}" for number in range(total)]
    folds = folds_of(names)
    columns = {
        "volume": [f"{prefix}v{number}" for number in range(total)],
        "patient": names,
        "hospital": [hospital or (SOURCE if masks else TARGET)] * total,
        "fold": pl.Series([folds[name] if masks else None for name in names], dtype=pl.Int32),
        "n_samples": pl.Series([10] * total, dtype=pl.Int32),
        "area.edema": random.normal(5, 1, total),
        "image.T1.noise": random.normal(shift, 1, total),
        "logits.lesion_sure": random.normal(0.9, 0.01, total),
        "tta.mirror_dice": random.normal(0.9, 0.01, total),
        "distortion.components_dice": random.normal(0.9, 0.01, total),
    }
    for temperature in TEMPERATURES:
        columns[f"sdc@{temperature}"] = 1 / (1 + np.exp(-(shown + 0.4 * np.log(temperature))))
    if masks:
        columns["truth.dice"] = 1 / (1 + np.exp(-odds))
    dense = random.normal(0, 1, (total, 6)) + shift
    return VolumeTable(pl.DataFrame(columns), dense.astype(np.float32), dense.astype(np.float32), {})
