import json

import numpy as np

from seglens.cohorts.blanking import BlankedLabel, blanked_json, blanked_labels, blanked_text, read_blanked


def test_counts_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 4, (3, 5, 6)).astype(np.uint8)
    mask[mask == 2] = 1
    foreground = rng.random(mask.shape) > 0.3
    foreground[mask == 3] = True
    labels = {0: "background", 1: "core", 2: "edema", 3: "enhancing"}
    found = blanked_labels("a", mask, foreground, labels)
    blanked = sum(1 for place in np.ndindex(mask.shape) if mask[place] == 1 and not foreground[place])
    assert found == [BlankedLabel("a", "core", blanked, int((mask == 1).sum()))]
    assert found[0].share == blanked / (mask == 1).sum()
    assert read_blanked(json.loads(json.dumps(blanked_json(found)))) == tuple(found)


def test_one_sentence() -> None:
    found = [BlankedLabel("a", "core", 1, 1000), BlankedLabel("b\n", "core", 30, 60), BlankedLabel("b\n", "rim", 1, 9)]
    assert blanked_text([]) == "no label pixel is blanked"
    assert blanked_text(found) == (
        '32 label pixels of 2 cases are blanked, at most 30 of 60 pixels of core (50.00%) in "b\\n"'
    )
