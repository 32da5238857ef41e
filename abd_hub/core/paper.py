"""Every card cites the paper that this package implements, and so do the defenses that it introduces."""

from __future__ import annotations

CITATION = """@inproceedings{hong2023revisiting,
  title     = {Revisiting Data-Free Knowledge Distillation with Poisoned Teachers},
  author    = {Hong, Junyuan and Zeng, Yi and Yu, Shuyang and Lyu, Lingjuan and Jia, Ruoxi and Zhou, Jiayu},
  booktitle = {International Conference on Machine Learning},
  year      = {2023},
  note      = {arXiv:2306.02368}
}"""
