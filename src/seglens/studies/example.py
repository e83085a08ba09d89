"""The study file that `seglens run --example` prints."""

EXAMPLE = """\
# A Med-SegLens study. Run it with:  seglens run study.yaml --out results
name: adult and pediatric glioma
seed: 0                      # everything random follows from it
sequences: [T1c]             # input channels, in order: T1, T1c, T2, FLAIR
size: 256                    # rows and columns of a slice
foreground: auto             # brain where every volume is a stripped brain, else none: every pixel is kept; or nonzero

regions:                     # label values that are also scored as one, on whole volumes
  whole tumour: [1, 2, 3]
  tumour core: [1, 3]

cohorts:
  adult:
    sources:                 # several folders are merged into one cohort
      - path: data/BraTS2021 # BraTS up to 2021 (enhancing = 4) and from 2023 (enhancing = 3) are told apart
      - path: data/BraTS-GLI
    slices_per_volume: 40    # evenly spaced over the lesion; leave out for all
    lesion_free_share: 0.2
    fractions: {train: 0.6, val: 0.15, test: 0.25}   # of the patients; chosen on val, judged on test
  pediatric:
    sources:
      - path: data/BraTS-PED
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
