"""The papers that a card cites, as BibTeX."""

from __future__ import annotations

ABD = """@inproceedings{hong2023revisiting,
  title     = {Revisiting Data-Free Knowledge Distillation with Poisoned Teachers},
  author    = {Hong, Junyuan and Zeng, Yi and Yu, Shuyang and Lyu, Lingjuan and Jia, Ruoxi and Zhou, Jiayu},
  booktitle = {International Conference on Machine Learning},
  year      = {2023},
  note      = {arXiv:2306.02368}
}"""

_DISTILLATION = """@misc{hinton2015distilling,
  title  = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  year   = {2015},
  note   = {arXiv:1503.02531}
}"""

METHODS = {
    "zskt": """@inproceedings{micaelli2019zeroshot,
  title     = {Zero-shot Knowledge Transfer via Adversarial Belief Matching},
  author    = {Micaelli, Paul and Storkey, Amos},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019},
  note      = {arXiv:1905.09768}
}""",
    "dafl": """@inproceedings{chen2019dafl,
  title     = {Data-Free Learning of Student Networks},
  author    = {Chen, Hanting and Wang, Yunhe and Xu, Chang and Yang, Zhaohui and Liu, Chuanjian and
               Shi, Boxin and Xu, Chunjing and Xu, Chao and Tian, Qi},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2019},
  note      = {arXiv:1904.01186}
}""",
    "dfad": """@misc{fang2019dfad,
  title  = {Data-Free Adversarial Distillation},
  author = {Fang, Gongfan and Song, Jie and Shen, Chengchao and Wang, Xinchao and Chen, Da and Song, Mingli},
  year   = {2019},
  note   = {arXiv:1912.11006}
}""",
    "deepinversion": """@inproceedings{yin2020dreaming,
  title     = {Dreaming to Distill: Data-Free Knowledge Transfer via DeepInversion},
  author    = {Yin, Hongxu and Molchanov, Pavlo and Alvarez, Jose M. and Li, Zhizhong and Mallya, Arun and
               Hoiem, Derek and Jha, Niraj K. and Kautz, Jan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2020},
  note      = {arXiv:1912.08795}
}""",
    "dfq": """@inproceedings{choi2020dfq,
  title     = {Data-Free Network Quantization With Adversarial Knowledge Distillation},
  author    = {Choi, Yoojin and Choi, Jihwan and El-Khamy, Mostafa and Lee, Jungwon},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
  year      = {2020},
  note      = {arXiv:2005.04136}
}""",
    "cmi": """@inproceedings{fang2021cmi,
  title     = {Contrastive Model Inversion for Data-Free Knowledge Distillation},
  author    = {Fang, Gongfan and Song, Jie and Wang, Xinchao and Shen, Chengchao and Wang, Xingen and
               Song, Mingli},
  booktitle = {International Joint Conference on Artificial Intelligence},
  year      = {2021},
  note      = {arXiv:2105.08584}
}""",
    "fast": """@inproceedings{fang2022fast,
  title     = {Up to 100x Faster Data-Free Knowledge Distillation},
  author    = {Fang, Gongfan and Mo, Kanya and Wang, Xinchao and Song, Jie and Bei, Shitao and
               Zhang, Haofei and Song, Mingli},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2022},
  note      = {arXiv:2112.06253}
}""",
    "ood": """@inproceedings{asano2023augmented,
  title     = {The Augmented Image Prior: Distilling 1000 Classes by Extrapolating from a Single Image},
  author    = {Asano, Yuki M. and Saeed, Aaqib},
  booktitle = {International Conference on Learning Representations},
  year      = {2023},
  note      = {arXiv:2112.00725}
}""",
    "real": _DISTILLATION,
}
"""By registered name of the synthesizer."""
