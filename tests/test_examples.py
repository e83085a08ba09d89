"""Every example in a docstring runs, in its module and with toys under the names that examples use."""

import doctest
import importlib
import inspect
from pathlib import Path

import polars as pl
import pytest
import torch

import seglens as sl
from seglens.cohorts.slice_set import SliceSet
from seglens.dictionaries.lens import Lens
from seglens.dictionaries.sae import SparseAutoencoder

SOURCE = Path(sl.__file__).parent
FILES = {
    ".".join(("seglens", *path.relative_to(SOURCE).with_suffix("").parts)): path
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>> " in path.read_text()
}
LABELS = {0: "background", 1: "edema", 2: "enhancing"}


@pytest.fixture(scope="module")
def toys():
    """A network of full width on four slices, its activations, and a dictionary that was not fitted."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 1, 128, 128, generator=generator)
    masks = torch.randint(0, 3, (4, 1, 128, 128), generator=generator).to(torch.uint8)
    index = pl.DataFrame(
        {
            "case": [f"case{row}" for row in range(4)],
            "position": list(range(4)),
            "patient": ["a", "a", "b", "b"],
            "split": ["train", "train", "test", "test"],
        }
    )
    slices = SliceSet.from_tensors(
        images, masks, masks >= 0, index, name="toy", sequences=("T1c",), labels=LABELS
    )  # fmt: skip
    segmenter, other = (
        sl.build_segmenter("segformer-b0", sequences=("T1c",), labels=LABELS, size=128, seed=seed) for seed in (0, 1)
    )
    dictionary = SparseAutoencoder(64, 64, k=4, hookpoint="stage2", segmenter_hash=segmenter.hash)
    store = sl.extract(segmenter, slices, "stage3")
    return {
        "sl": sl,
        "torch": torch,
        "Path": Path,
        "FitSettings": sl.FitSettings,
        "fit_dictionary": sl.fit_dictionary,
        "segmenter": segmenter,
        "slices": slices,
        "images": images,
        "adult": slices,
        "dictionary": dictionary,
        "lens": Lens(segmenter, dictionary),
        "describe": sl.describe,
        "store": store,
        "adult_store": store,
        "pediatric_store": sl.extract(other, slices, "stage3"),
    }


def documented(module):
    """Names and docstrings of what a module defines; a wrapper that checks types is looked through."""
    found = {"": module.__doc__}
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isroutine(value) or inspect.isclass(value):
            found[name] = value.__doc__
        if inspect.isclass(value):
            found |= {f"{name}.{part}": own.__doc__ for part, own in vars(value).items() if inspect.isroutine(own)}
    return {name: text for name, text in found.items() if text and ">>> " in text}


@pytest.mark.parametrize("name", FILES)
def test_examples_run(name, toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    announce = []
    tried = 0
    for place, text in documented(module).items():
        names = {**vars(module), **toys}
        example = doctest.DocTestParser().get_doctest(inspect.cleandoc(text), names, f"{name}.{place}", name, 0)
        assert not any(doctest.SKIP in one.options for one in example.examples), f"{name}.{place} is not run"
        tried += len(example.examples)
        runner.run(example, out=announce.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(announce)
    assert tried == FILES[name].read_text().count(">>> "), "an example stands where nobody looks"
