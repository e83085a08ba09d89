from seglens.studies.analyses.segmenter import identity, training_settings
from seglens.studies.segmenter_settings import SegmenterSettings


def test_an_epoch_shows_each_slice_once():
    own = SegmenterSettings(cohort="adult", epochs=2.5, batch_size=16, network={"depths": [1, 1, 1, 1]})
    found = training_settings(own, n_slices=100)
    assert found.steps == 16  # 250 slices, 16 at a time
    assert found.architecture_settings == {"depths": [1, 1, 1, 1]}
    assert training_settings(SegmenterSettings(cohort="adult", steps=7), n_slices=100).steps == 7


def test_settings_that_are_not_given_leave_the_hash_as_it_was():
    own = SegmenterSettings(cohort="adult", hookpoints="auto")
    assert set(identity(own)) == {
        *("cohort", "architecture", "steps", "batch_size", "learning_rate", "init_from", "pretrained")
    }
    assert identity(own.model_copy(update={"epochs": 3.0}))["epochs"] == 3.0
