"""oal_lite: Outlier-Aware Learning for OOD detection, small enough to read and to run.

The method is that of H. Gao and J. Li, "Enhancing OOD Detection Using Latent Diffusion",
arXiv:2406.16525. Each module holds one idea; start with `oal_lite.recipes` for the training
arms and `oal_lite.study` for the whole way from images to a results table.
"""

__version__ = "0.1.0"
