"""The study files that `seglens run --example` prints."""

EXAMPLE = """\
# A Med-SegLens study. Run it with:  seglens run study.yaml --out results
name: adult and pediatric glioma
seed: 0                      # everything random follows from it
sequences: [T1c]             # input channels, in order: T1, T1c, T2, FLAIR
size: 256                    # rows and columns of a slice
foreground: auto             # brain where every volume is a stripped brain, else none: every pixel is kept; or nonzero

cohorts:
  adult:
    sources:                 # several folders are merged into one cohort
      - path: data/BraTS2021 # BraTS up to 2021 (enhancing = 4) and from 2023 (enhancing = 3) are told apart
      - path: data/BraTS-GLI
    slices_per_volume: 40    # evenly spaced over the lesion; leave out for all
    lesion_free_share: 0.2
    fractions: {train: 0.6, val: 0.15, test: 0.25}   # of the patients; chosen on val, judged on test
    regions: {whole tumour: [1, 2, 3], tumour core: [1, 3]}   # labels that are also scored as one, on whole volumes
  pediatric:
    sources:
      - path: data/BraTS-PED
  # images without masks, to be seen through models that are opened (segmenters: model) and by no score:
  # elsewhere: {sources: [{path: data/elsewhere}], labelled: false, slices_per_volume: 40}
  # 2-D images with masks:
  # lgg:
  #   sources:
  #     - path: data/lgg
  #       layout: folder
  #       images: "{patient}/{patient}_{slice}.tif"
  #       masks: "{patient}/{patient}_{slice}_mask.tif"
  #       channels: {FLAIR: 1}
  #       labels: {0: background, 1: tumour}
  #       mask_values: {0: 0, 255: 1}
  # photographs (sequences: [R, G, B]); masks that were resized or saved as JPEG need a threshold:
  # polyps:
  #   sources:
  #     - path: data/polyps
  #       images: "images/{patient}.jpg"
  #       masks: "masks/{patient}.jpg"
  #       labels: {0: background, 1: polyp}
  #       mask_threshold: 128
  # phantoms, with one factor switched:
  # noisy:
  #   phantom: {population: adult, subjects: 60, factors: {noise: ssa}}

segmenters:
  adult: {cohort: adult, architecture: segformer-b0, steps: 2000}
  pediatric: {cohort: pediatric, architecture: segformer-b0, steps: 2000, init_from: adult}
  # one that is opened and not trained, such as another run's:
  # ours: {cohort: adult, model: earlier/artifacts/segmenter-adult-0123456789ab}

hookpoints: auto             # the deepest place with a real effect and a width that carries a dictionary; or names,
                             # such as [stage3, stage2]: a dictionary and an atlas at each, all else at the first
dictionaries: {k: auto, expansion: auto, steps: 2000}   # by the width and the tokens at hand
store: true                  # false: activations are computed whenever they are read (slower), none are kept on disk
tau: 0.8
# alignment: [{hookpoint: stage2}]   # pairs are compared at the first hookpoints, and with this there too

steering:                    # run a segmenter on another cohort, change latents of one class
  - {segmenter: adult, cohort: pediatric, label: edema}
  - {segmenter: pediatric, cohort: adult, label: edema}   # at another hookpoint: hookpoint: stage2
failures:
  - {segmenter: adult, cohort: adult, worst: 60}
"""

PAPER = """\
# The study of the paper (Med-SegLens, sections 3 and 4). It wants a GPU, days, and about 200 GB of disk.
name: Med-SegLens, as in the paper
sequences: [T1]              # all four cohorts have it
size: 256

cohorts:
  adult:                     # BraTS 2023 GLI, 1,251 volumes; classes: necrotic core, edema, enhancing tumour
    sources: [{path: data/BraTS-GLI}]
    regions: &brats {whole tumour: [1, 2, 3], tumour core: [1, 3]}
  pediatric:                 # BraTS 2023 PED, 99 volumes
    sources: [{path: data/BraTS-PED}]
    regions: *brats
  ssa:                       # BraTS 2023 SSA, 60 volumes
    sources: [{path: data/BraTS-SSA}]
    regions: *brats
  healthy:                   # IXI as TransMorph ships it, 576 volumes, made readable by `seglens convert-pkl`
    sources:
      - path: data/IXI-nifti
        layout: nnunet
        # the paper has eight classes beside the background and does not name them; these are ours, of FreeSurfer
        labels: {0: background, 1: white matter, 2: cortex, 3: ventricles, 4: thalamus, 5: caudate, 6: putamen,
          7: pallidum, 8: hippocampus}
        mask_values: {0: 0, 2: 1, 41: 1, 3: 2, 42: 2, 4: 3, 43: 3, 5: 3, 44: 3, 14: 3, 15: 3, 10: 4, 49: 4, 11: 5,
          50: 5, 12: 6, 51: 6, 13: 7, 52: 7, 17: 8, 53: 8, 7: 0, 46: 0, 8: 0, 47: 0, 16: 0, 18: 0, 54: 0, 24: 0, 26: 0,
          58: 0, 28: 0, 60: 0, 30: 0, 62: 0, 31: 0, 63: 0, 72: 0, 77: 0, 80: 0, 85: 0, 251: 0, 252: 0, 253: 0,
          254: 0, 255: 0}

# Each network starts from random weights of its own: nobody's `init_from`. With a pretrained encoder instead, take
# SegFormer's own recipe: {pretrained: nvidia/mit-b4@<commit>, learning_rate: 6e-4, encoder_learning_rate: 6e-5}.
# The paper gives neither epochs nor rates; these are ours.
segmenters:
  adult: &b4 {cohort: adult, architecture: segformer-b4, epochs: 20, learning_rate: 3e-4}
  pediatric: {<<: *b4, cohort: pediatric, epochs: 100}
  ssa: {<<: *b4, cohort: ssa, epochs: 100}
  healthy: {<<: *b4, cohort: healthy}
  adult unet: &unet
    cohort: adult
    architecture: unet
    network: {features: [32, 32, 64, 128, 256, 32]}   # MONAI's own widths
    epochs: 20
    learning_rate: 1e-3
  pediatric unet: {<<: *unet, cohort: pediatric, epochs: 100}
  ssa unet: {<<: *unet, cohort: ssa, epochs: 100}
  healthy unet: {<<: *unet, cohort: healthy}

hookpoints: [stage3, encoder3]   # the middle of each network: 320 channels at 16 x 16, 128 at 32 x 32
dictionaries: {k: 32, expansion: 16, steps: 5000, batch_size: 4096}   # about one pass over the largest store
tau: 0.8

steering:                    # section 7: each network on the cohorts with its classes
  - {segmenter: adult, cohort: pediatric, label: edema}
  - {segmenter: adult, cohort: ssa, label: edema}
  - {segmenter: pediatric, cohort: adult, label: edema}
  - {segmenter: ssa, cohort: adult, label: edema}
failures:                    # section 6.1
  - {segmenter: adult, cohort: adult, worst: 60}
  - {segmenter: pediatric, cohort: pediatric, worst: 60}
  - {segmenter: ssa, cohort: ssa, worst: 60}
"""
EXAMPLES = {"study": EXAMPLE, "paper": PAPER}
