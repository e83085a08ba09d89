from seglens.reports.blocks import Cards, Fold, Pictures
from seglens.reports.sections.latent_steps import latent_blocks


def test_six_steps_and_the_cards_of_every_segmenter(full_run):
    cohorts = {"adult": "adult", "pediatric": "pediatric", "adult-unet": "adult"}
    blocks = latent_blocks(full_run, cohorts)
    (steps,) = (block for block in blocks if isinstance(block, Pictures))
    words = [picture.label for picture in steps.pictures]
    assert words == ["slice", "brain", "edge band", "labels", "activation", "centroid"]
    assert len({picture.uri for picture in steps.pictures}) == 6  # six different pictures
    assert "of pediatric" in steps.title  # the paper's choice
    assert sum(isinstance(block, Cards) for block in blocks) == 1  # the first is open
    assert all(isinstance(block.blocks[0], Cards) for block in blocks if isinstance(block, Fold))
    assert any(isinstance(block, Fold) for block in blocks)


def test_a_run_without_atlases_has_none(full_run):
    assert latent_blocks(full_run, {"unknown": "adult"}) == []
