"""How well each dictionary stands for the activation, beside the control that shows what that is worth."""

from seglens.dictionaries.controls import (
    DENSE,
    PIXELS,
    RANDOM_LATENTS,
    SHUFFLED,
    UNTRAINED_DICTIONARY,
    UNTRAINED_NETWORK,
    Ladder,
    LeftOut,
)
from seglens.lens_names import segmenter_of
from seglens.reports.blocks import Block, Cell, Paragraph, Section, head, table
from seglens.reports.ladders import ladder_rows, ladder_table
from seglens.reports.wording import count, number, percent, plain
from seglens.summaries import Summary


def dictionaries_section(summary: Summary) -> Section:
    """One table, a row a dictionary."""
    intro = (
        "A dictionary (sparse autoencoder) writes an activation as a sum of a few latents out of many. It is good when "
        "the network still segments with the sum in place of the activation."
    )
    entries = summary.dictionaries
    if not entries:
        blocks: tuple[Block, ...] = (Paragraph("No dictionary was fitted.", "missing"),)
        return Section("dictionaries", "Dictionaries", intro, blocks)
    rows = [
        (
            head(plain(segmenter_of(one.name)), f"at {plain(one.hookpoint)}"),
            Cell(count(one.n_latents), f"k {count(one.k)}"),
            Cell(percent(one.explained_variance, 1)),
            Cell(percent(one.control_explained_variance, 1)),
            Cell(percent(one.dice_kept, 1)),
            Cell(f"{number(one.dice_mean_ablated)} / {number(one.dice_reconstructed)} / {number(one.dice_untouched)}"),
            Cell(number(one.l0, 1)),
            Cell(percent(one.dead_share)),
            Cell(number(one.participation_ratio, 1)),
        )
        for one in entries
    ]
    columns = (
        "Dictionary", "Latents", "Variance explained", "… of an untrained network", "Dice kept",
        "Dice: mean / latents / untouched", "Active (L0)", "Dead", "Effective dimensions",
    )  # fmt: skip
    note = (
        "“… of an untrained network” is the control: a dictionary of the same size, fitted to the same network with "
        "random weights, drawn once. Where it explains as much, explained variance proves nothing. “Dice kept”: 0 % is "
        "the network with the activation at its mean, 100 % is the untouched network. “Dead” latents never fire on "
        "the test slices. “Effective dimensions” (participation ratio): with only a few of them, variance is easily "
        "explained."
    )
    quality = table("Quality on the test slices", columns, rows, note)
    return Section("dictionaries", "Dictionaries", intro, (quality, ladder_table(ladder_rows(_ladders(summary)))))


def _ladders(summary: Summary) -> list[Ladder[float | None]]:
    """Explained variance of every dictionary beside its controls."""
    every = LeftOut("explained variance chooses no latent and pairs nothing with another patient")
    untrained = LeftOut("not computed in a study (dictionary_quality of dictionaries.controls.untrained_dictionary)")
    dense = LeftOut("all channels are the activation itself; what k principal components explain is not stored")
    return [
        Ladder(
            f"{one.name}, variance explained",
            one.explained_variance,
            {
                UNTRAINED_NETWORK: LeftOut("not asked for (dictionaries.controls)")
                if one.control_explained_variance is None
                else [one.control_explained_variance],
                UNTRAINED_DICTIONARY: untrained,
                DENSE: dense,
                PIXELS: LeftOut("pixels are another activation"),
                SHUFFLED: every,
                RANDOM_LATENTS: every,
            },
        )
        for one in summary.dictionaries
    ]
