"""Names of lenses."""

from seglens.lens_names import lens_name, segmenter_of


def test_a_lens_leads_back_to_its_segmenter():
    assert lens_name("a", "stage3") == "a@stage3"
    assert segmenter_of("a@stage3") == segmenter_of("a") == "a"
