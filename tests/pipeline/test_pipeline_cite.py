"""Every part leads to its publication."""

import re

import pytest

import sfumato as sf
from sfumato import guidance, nets, objectives
from sfumato.core.config import REGISTRY
from sfumato.pipeline.cite import KINDS
from sfumato.pipeline.references import REFERENCES


def keys(text):
    return re.findall(r"^@\w+\{(\w+),$", text, re.M)


def test_the_table_is_whole():
    _ = (guidance, nets, objectives, sf.cold, sf.data, sf.pipeline)
    known = {*REGISTRY, *guidance.__all__, *sf.inverse.__all__}
    assert set(KINDS) <= known
    assert {key for row in KINDS.values() for key in row} <= set(REFERENCES)
    for name in sf.solvers.__all__:
        assert name in KINDS
    for key, reference in REFERENCES.items():
        assert re.fullmatch(r"\d{4}\.\d{5}|10\.\d{4,}/\S+|https://\S+", reference.number) or re.fullmatch(
            r"\d{4}\.\d{4}", reference.number
        )
        assert str(reference.year) in key
        entry = reference.bibtex(key)
        assert entry.count("{") == entry.count("}")
        if reference.number[:4].isdigit():  # the first version appeared at most two years before the venue's
            assert 0 <= reference.year - (2000 + int(reference.number[:2])) <= 2


def test_an_output_cites_what_it_ran(pipe):
    base = {"nichol2021improved", "salimans2022distillation", "ho2020ddpm", "dhariwal2021adm"}
    assert set(keys(sf.cite(pipe))) == base
    plain = pipe("dog", n=1, solver="ddim", grid="uniform", guidance=1.0)
    assert set(keys(sf.cite(plain))) == base | {"song2021ddim"}
    full = pipe("dog", n=1, solver="dpm++2m", grid="karras", guidance=3.0, guidance_interval=(0, 9), rescale=0.5)
    added = {"lu2022dpmpp", "karras2022edm", "ho2022cfg", "kynkaanniemi2024interval", "lin2024flawed"}
    assert set(keys(sf.cite(full))) == base | added
    pipe.references = ("alpaydin1998digits",)
    assert "alpaydin1998digits" in keys(sf.cite(pipe))


def test_single_parts_nesting_and_keys():
    assert keys(sf.cite(sf.solvers.DDIM())) == ["song2021ddim"]
    assert keys(sf.cite(sf.ZeroTerminalSNR(base=sf.VPCosine()))) == ["nichol2021improved", "lin2024flawed"]
    assert keys(sf.cite(objectives.Denoising(time=objectives.LogNormal()))) == ["ho2020ddpm", "karras2022edm"]
    assert keys(sf.cite("ho2022cfg", sf.solvers.Heun())) == ["ho2022cfg", "karras2022edm"]
    assert "eprint = {2010.02502}" in sf.cite(sf.solvers.DDIM())


def test_refusals():
    with pytest.raises(sf.InputError, match="needs something"):
        sf.cite()
    with pytest.raises(sf.InputError, match="did you mean 'ho2020ddpm'"):
        sf.cite("ho2020dppm")
