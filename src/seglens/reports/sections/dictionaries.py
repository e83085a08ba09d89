"""How well each dictionary stands for the activation, beside the control that shows what that is worth."""

from collections.abc import Mapping
from typing import Any

from seglens.reports.blocks import Block, Cell, Paragraph, Section, head, table
from seglens.reports.wording import count, number, percent, plain


def dictionaries_section(summary: Mapping[str, Any]) -> Section:
    """One table, a row a dictionary."""
    intro = (
        "A dictionary (sparse autoencoder) writes an activation as a sum of a few latents out of many. It is good when "
        "the network still segments with the sum in place of the activation."
    )
    entries = summary.get("dictionaries") or []
    if not entries:
        blocks: tuple[Block, ...] = (Paragraph("No dictionary was fitted.", "missing"),)
        return Section("dictionaries", "Dictionaries", intro, blocks)
    rows = [
        (
            head(plain(one["name"]), f"at {plain(one.get('hookpoint', '–'))}"),
            Cell(count(one.get("n_latents")), f"k {count(one.get('k'))}"),
            Cell(percent(one.get("explained_variance"), 1)),
            Cell(percent(one.get("control_explained_variance"), 1)),
            Cell(percent(one.get("dice_kept"), 1)),
            Cell(
                f"{number(one.get('dice_mean_ablated'))} / {number(one.get('dice_reconstructed'))} / "
                f"{number(one.get('dice_untouched'))}"
            ),
            Cell(number(one.get("l0"), 1)),
            Cell(percent(one.get("dead_share"))),
            Cell(number(one.get("participation_ratio"), 1)),
        )
        for one in entries
    ]
    columns = (
        "Dictionary", "Latents", "Variance explained", "… of an untrained network", "Dice kept",
        "Dice: mean / latents / untouched", "Active (L0)", "Dead", "Effective dimensions",
    )  # fmt: skip
    note = (
        "“… of an untrained network” is the control: a dictionary of the same size, fitted to the same network with "
        "random weights. Where it explains as much, explained variance proves nothing. “Dice kept”: 0 % is the "
        "network with the activation at its mean, 100 % is the untouched network. “Dead” latents never fire on the "
        "test slices. “Effective dimensions” (participation ratio): with only a few of them, variance is easily "
        "explained."
    )
    return Section("dictionaries", "Dictionaries", intro, (table("Quality on the test slices", columns, rows, note),))
