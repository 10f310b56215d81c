"""The publications that `cite` knows, by their BibTeX keys."""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """A publication: authors in BibTeX's form, title, year, where it appeared, and its arXiv id, DOI or address."""

    authors: str
    title: str
    year: int
    venue: str
    number: str

    def bibtex(self, key: str) -> str:
        """Return the BibTeX entry."""
        arxiv = self.number[:4].isdigit()
        kind = "misc" if self.venue == "arXiv" else "article" if "Journal" in self.venue else "inproceedings"
        lines = {"author": self.authors, "title": f"{{{self.title}}}", "year": str(self.year)}
        if kind != "misc":
            lines["journal" if kind == "article" else "booktitle"] = self.venue
        if arxiv:
            lines |= {"eprint": self.number, "archiveprefix": "arXiv"}
        else:
            lines |= {"url" if self.number.startswith("https://") else "doi": self.number}
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in lines.items())
        return f"@{kind}{{{key},\n{body}\n}}"


REFERENCES: dict[str, Reference] = {
    "ho2020ddpm": Reference(
        "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
        "Denoising Diffusion Probabilistic Models", 2020, "NeurIPS", "2006.11239",
    ),
    "song2021ddim": Reference(
        "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
        "Denoising Diffusion Implicit Models", 2021, "ICLR", "2010.02502",
    ),
    "song2021sde": Reference(
        "Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and Ermon, Stefano "
        "and Poole, Ben",
        "Score-Based Generative Modeling through Stochastic Differential Equations", 2021, "ICLR", "2011.13456",
    ),
    "nichol2021improved": Reference(
        "Nichol, Alexander Quinn and Dhariwal, Prafulla",
        "Improved Denoising Diffusion Probabilistic Models", 2021, "ICML", "2102.09672",
    ),
    "dhariwal2021adm": Reference(
        "Dhariwal, Prafulla and Nichol, Alexander Quinn",
        "Diffusion Models Beat GANs on Image Synthesis", 2021, "NeurIPS", "2105.05233",
    ),
    "rombach2022ldm": Reference(
        "Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bj{\\\"o}rn",
        "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, "CVPR", "2112.10752",
    ),
    "salimans2022distillation": Reference(
        "Salimans, Tim and Ho, Jonathan",
        "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, "ICLR", "2202.00512",
    ),
    "choi2022p2": Reference(
        "Choi, Jooyoung and Lee, Jungbeom and Shin, Chaehun and Kim, Sungwon and Kim, Hyunwoo and Yoon, Sungroh",
        "Perception Prioritized Training of Diffusion Models", 2022, "CVPR", "2204.00227",
    ),
    "karras2022edm": Reference(
        "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
        "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, "NeurIPS", "2206.00364",
    ),
    "ho2022cfg": Reference(
        "Ho, Jonathan and Salimans, Tim", "Classifier-Free Diffusion Guidance", 2022, "arXiv", "2207.12598",
    ),
    "liu2023rectified": Reference(
        "Liu, Xingchao and Gong, Chengyue and Liu, Qiang",
        "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow",
        2023, "ICLR", "2209.03003",
    ),
    "lu2022dpmpp": Reference(
        "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
        "{DPM-Solver++}: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        2022, "arXiv", "2211.01095",
    ),
    "lu2022dpmsolver": Reference(
        "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
        "{DPM-Solver}: A Fast {ODE} Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
        2022, "NeurIPS", "2206.00927",
    ),
    "zhang2023deis": Reference(
        "Zhang, Qinsheng and Chen, Yongxin",
        "Fast Sampling of Diffusion Models with Exponential Integrator", 2023, "ICLR", "2204.13902",
    ),
    "zhao2023unipc": Reference(
        "Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen",
        "{UniPC}: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
        2023, "NeurIPS", "2302.04867",
    ),
    "xue2023sasolver": Reference(
        "Xue, Shuchen and Yi, Mingyang and Luo, Weijian and Zhang, Shifeng and Sun, Jiacheng and Li, Zhenguo "
        "and Ma, Zhi-Ming",
        "{SA-Solver}: Stochastic {Adams} Solver for Fast Sampling of Diffusion Models",
        2023, "NeurIPS", "2309.05019",
    ),
    "song2019ncsn": Reference(
        "Song, Yang and Ermon, Stefano",
        "Generative Modeling by Estimating Gradients of the Data Distribution", 2019, "NeurIPS", "1907.05600",
    ),
    "liu2022pndm": Reference(
        "Liu, Luping and Ren, Yi and Lin, Zhijie and Zhao, Zhou",
        "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022, "ICLR", "2202.09778",
    ),
    "xu2023restart": Reference(
        "Xu, Yilun and Deng, Mingyang and Cheng, Xiang and Tian, Yonglong and Liu, Ziming and Jaakkola, Tommi",
        "Restart Sampling for Improving Generative Processes", 2023, "NeurIPS", "2306.14878",
    ),
    "song2023consistency": Reference(
        "Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya",
        "Consistency Models", 2023, "ICML", "2303.01469",
    ),
    "luo2023lcm": Reference(
        "Luo, Simian and Tan, Yiqin and Huang, Longbo and Li, Jian and Zhao, Hang",
        "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference",
        2023, "arXiv", "2310.04378",
    ),
    "zheng2024tcd": Reference(
        "Zheng, Jianbin and Hu, Minghui and Fan, Zhongyi and Wang, Chaoyue and Ding, Changxing and Tao, Dacheng "
        "and Cham, Tat-Jen",
        "Trajectory Consistency Distillation", 2024, "arXiv", "2402.19159",
    ),
    "dormand1980rk": Reference(
        "Dormand, J. R. and Prince, P. J.", "A Family of Embedded {Runge-Kutta} Formulae", 1980,
        "Journal of Computational and Applied Mathematics", "10.1016/0771-050X(80)90013-3",
    ),
    "peebles2023dit": Reference(
        "Peebles, William and Xie, Saining",
        "Scalable Diffusion Models with Transformers", 2023, "ICCV", "2212.09748",
    ),
    "jabri2023rin": Reference(
        "Jabri, Allan and Fleet, David J. and Chen, Ting",
        "Scalable Adaptive Computation for Iterative Generation", 2023, "ICML", "2212.11972",
    ),
    "kingma2023understanding": Reference(
        "Kingma, Diederik P. and Gao, Ruiqi",
        "Understanding Diffusion Objectives as the {ELBO} with Simple Data Augmentation",
        2023, "NeurIPS", "2303.00848",
    ),
    "hang2023minsnr": Reference(
        "Hang, Tiankai and Gu, Shuyang and Li, Chen and Bao, Jianmin and Chen, Dong and Hu, Han and Geng, Xin "
        "and Guo, Baining",
        "Efficient Diffusion Training via {Min-SNR} Weighting Strategy", 2023, "ICCV", "2303.09556",
    ),
    "lin2024flawed": Reference(
        "Lin, Shanchuan and Liu, Bingchen and Li, Jiashi and Yang, Xiao",
        "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024, "WACV", "2305.08891",
    ),
    "bansal2023cold": Reference(
        "Bansal, Arpit and Borgnia, Eitan and Chu, Hong-Min and Li, Jie and Kazemi, Hamid and Huang, Furong and "
        "Goldblum, Micah and Geiping, Jonas and Goldstein, Tom",
        "Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise", 2023, "NeurIPS", "2208.09392",
    ),
    "pooladian2023coupling": Reference(
        "Pooladian, Aram-Alexandre and Ben-Hamu, Heli and Domingo-Enrich, Carles and Amos, Brandon and Lipman, Yaron "
        "and Chen, Ricky T. Q.",
        "Multisample Flow Matching: Straightening Flows with Minibatch Couplings", 2023, "ICML", "2304.14772",
    ),
    "tong2024coupling": Reference(
        "Tong, Alexander and Fatras, Kilian and Malkin, Nikolay and Huguet, Guillaume and Zhang, Yanlei and "
        "Rector-Brooks, Jarrid and Wolf, Guy and Bengio, Yoshua",
        "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport",
        2024, "Transactions on Machine Learning Research (Journal)", "2302.00482",
    ),
    "sabour2024ays": Reference(
        "Sabour, Amirmojtaba and Fidler, Sanja and Kreis, Karsten",
        "Align Your Steps: Optimizing Sampling Schedules in Diffusion Models", 2024, "ICML", "2404.14507",
    ),
    "esser2024sd3": Reference(
        "Esser, Patrick and Kulal, Sumith and Blattmann, Andreas and others",
        "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024, "ICML", "2403.03206",
    ),
    "kynkaanniemi2024interval": Reference(
        "Kynk{\\\"a}{\\\"a}nniemi, Tuomas and Aittala, Miika and Karras, Tero and Laine, Samuli and Aila, Timo "
        "and Lehtinen, Jaakko",
        "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models",
        2024, "NeurIPS", "2404.07724",
    ),
    "saharia2022imagen": Reference(
        "Saharia, Chitwan and Chan, William and Saxena, Saurabh and others",
        "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
        2022, "NeurIPS", "2205.11487",
    ),
    "chung2025cfgpp": Reference(
        "Chung, Hyungjin and Kim, Jeongsol and Park, Geon Yeong and Nam, Hyelin and Ye, Jong Chul",
        "{CFG++}: Manifold-Constrained Classifier Free Guidance for Diffusion Models", 2025, "ICLR", "2406.08070",
    ),
    "karras2024bad": Reference(
        "Karras, Tero and Aittala, Miika and Kynk{\\\"a}{\\\"a}nniemi, Tuomas and Lehtinen, Jaakko and Aila, Timo "
        "and Laine, Samuli",
        "Guiding a Diffusion Model with a Bad Version of Itself", 2024, "NeurIPS", "2406.02507",
    ),
    "podell2024sdxl": Reference(
        "Podell, Dustin and English, Zion and Lacey, Kyle and Blattmann, Andreas and Dockhorn, Tim and "
        "M{\"u}ller, Jonas and Penna, Joe and Rombach, Robin",
        "{SDXL}: Improving Latent Diffusion Models for High-Resolution Image Synthesis", 2024, "ICLR", "2307.01952",
    ),
    "chen2024pixart": Reference(
        "Chen, Junsong and Yu, Jincheng and Ge, Chongjian and Yao, Lewei and Xie, Enze and Wu, Yue and "
        "Wang, Zhongdao and Kwok, James and Luo, Ping and Lu, Huchuan and Li, Zhenguo",
        "{PixArt}-$\\alpha$: Fast Training of Diffusion Transformer for Photorealistic Text-to-Image Synthesis", 2024,
        "ICLR", "2310.00426",
    ),
    "chen2024sigma": Reference(
        "Chen, Junsong and Ge, Chongjian and Xie, Enze and Wu, Yue and Yao, Lewei and Ren, Xiaozhe and "
        "Wang, Zhongdao and Luo, Ping and Lu, Huchuan and Li, Zhenguo",
        "{PixArt}-$\\Sigma$: Weak-to-Strong Training of Diffusion Transformer for 4K Text-to-Image Generation", 2024,
        "ECCV", "2403.04692",
    ),
    "li2024hunyuan": Reference(
        "Li, Zhimin and others",
        "{Hunyuan-DiT}: A Powerful Multi-Resolution Diffusion Transformer with Fine-Grained Chinese Understanding",
        2024, "arXiv", "2405.08748",
    ),
    "zhuo2024lumina": Reference(
        "Zhuo, Le and others",
        "{Lumina-Next}: Making {Lumina-T2X} Stronger and Faster with {Next-DiT}", 2024, "NeurIPS", "2406.18583",
    ),
    "bao2023uvit": Reference(
        "Bao, Fan and Nie, Shen and Xue, Kaiwen and Cao, Yue and Li, Chongxuan and Su, Hang and Zhu, Jun",
        "All are Worth Words: A {ViT} Backbone for Diffusion Models", 2023, "CVPR", "2209.12152",
    ),
    "hatamizadeh2024diffit": Reference(
        "Hatamizadeh, Ali and Song, Jiaming and Liu, Guilin and Kautz, Jan and Vahdat, Arash",
        "{DiffiT}: Diffusion Vision Transformers for Image Generation", 2024, "ECCV", "2312.02139",
    ),
    "esser2021vqgan": Reference(
        "Esser, Patrick and Rombach, Robin and Ommer, Bj{\"o}rn",
        "Taming Transformers for High-Resolution Image Synthesis", 2021, "CVPR", "2012.09841",
    ),
    "brooks2023instruct": Reference(
        "Brooks, Tim and Holynski, Aleksander and Efros, Alexei A.",
        "InstructPix2Pix: Learning to Follow Image Editing Instructions", 2023, "CVPR", "2211.09800",
    ),
    "hyung2025stg": Reference(
        "Hyung, Junha and Kim, Kinam and Hong, Susung and Kim, Min-Jung and Choo, Jaegul",
        "Spatiotemporal Skip Guidance for Enhanced Video Diffusion Sampling", 2025, "CVPR", "2411.18664",
    ),
    "chung2023dps": Reference(
        "Chung, Hyungjin and Kim, Jeongsol and Mccann, Michael T. and Klasky, Marc L. and Ye, Jong Chul",
        "Diffusion Posterior Sampling for General Noisy Inverse Problems", 2023, "ICLR", "2209.14687",
    ),
    "wang2023ddnm": Reference(
        "Wang, Yinhuai and Yu, Jiwen and Zhang, Jian",
        "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", 2023, "ICLR", "2212.00490",
    ),
    "zhu2023diffpir": Reference(
        "Zhu, Yuanzhi and Zhang, Kai and Liang, Jingyun and Cao, Jiezhang and Wen, Bihan and Timofte, Radu "
        "and Van Gool, Luc",
        "Denoising Diffusion Models for Plug-and-Play Image Restoration", 2023, "CVPR Workshops", "2305.08995",
    ),
    "song2023pigdm": Reference(
        "Song, Jiaming and Vahdat, Arash and Mardani, Morteza and Kautz, Jan",
        "Pseudoinverse-Guided Diffusion Models for Inverse Problems", 2023, "ICLR",
        "https://openreview.net/forum?id=9_gsMA8MRKQ",
    ),
    "rozet2024mmps": Reference(
        "Rozet, Fran{\\c{c}}ois and Andry, G{\\'e}r{\\^o}me and Lanusse, Fran{\\c{c}}ois and Louppe, Gilles",
        "Learning Diffusion Priors from Observations by Expectation Maximization", 2024, "NeurIPS", "2405.13712",
    ),
    "tancik2020fourier": Reference(
        "Tancik, Matthew and Srinivasan, Pratul P. and Mildenhall, Ben and others",
        "Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains",
        2020, "NeurIPS", "2006.10739",
    ),
    "alpaydin1998digits": Reference(
        "Alpaydin, E. and Kaynak, C.", "Optical Recognition of Handwritten Digits", 1998,
        "UCI Machine Learning Repository", "10.24432/C50P49",
    ),
    "matejka2017datasaurus": Reference(
        "Matejka, Justin and Fitzmaurice, George",
        "Same Stats, Different Graphs: Generating Datasets with Varied Appearance and Identical Statistics through "
        "Simulated Annealing", 2017, "CHI", "10.1145/3025453.3025912",
    ),
}  # fmt: skip
