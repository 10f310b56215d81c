"""The judge on a model whose answers are known: scores, ranks and recalls by hand; written and read back."""

import json

import pytest
import torch

from sfumato import InputError
from sfumato.conditioning import Words
from sfumato.core import CheckpointError
from sfumato.core.weights import read_weights
from sfumato.measure import Judge, clip_score, load_judge, retrieval
from sfumato.nets import Contrast, ContrastConfig, WordEncoderConfig

NAMES = ("alpha", "beta", "gamma", "delta")
WORDS = Words(vocabulary=NAMES, length=3)
CONFIG = ContrastConfig(
    text=WordEncoderConfig(words=WORDS.count, length=3, width=8, layers=1, heads=2),
    size=8,
    widths=(8,),
    layers=1,
    heads=2,
    features=4,
)


class Known(Contrast):
    """Picture k points along the first four values of its first row, the text of word k along axis k."""

    def picture(self, x):
        return torch.nn.functional.normalize(x[:, 0, 0, :4], dim=-1)

    def words(self, tokens):
        return torch.eye(4)[tokens[:, 0] - 2]


def known():
    return Judge(net=Known(CONFIG), words=WORDS)


def pictures(directions):
    x = torch.zeros(len(directions), 3, 8, 8)
    x[:, 0, 0, :4] = torch.tensor(directions)
    return x


def test_scores_are_cosines():
    x = pictures([[1.0, 0, 0, 0], [3.0, 4.0, 0, 0], [-1.0, 0, 0, 0]])
    judge = known()
    torch.testing.assert_close(judge.cosines(x, ["alpha"] * 3), torch.tensor([1.0, 0.6, -1.0]))
    figure = clip_score(judge, x, ["alpha"] * 3)
    assert figure.value == pytest.approx(2.5 * (1 + 0.6 + 0) / 3)  # what points away counts as nothing
    assert judge.ranked(x, "alpha") == [0, 1, 2]
    assert judge.ranked(x, "beta") == [1, 0, 2]


def recalls(x, captions, wrong=(), size=4):
    return {f.name: f.value for f in retrieval(known(), x, captions, wrong, size=size)}


def test_recall_by_hand():
    x = pictures(
        [[1.0, 0, 0, 0], [0.5, 1, 0, 0], [0, 0.2, 1, 2], [0, 0, 3, 1]]
    )  # the last two are taken for one another
    found = recalls(x, NAMES)
    assert found == {
        "text_recall_at_1": 0.5,
        "text_recall_at_5": 1.0,
        "picture_recall_at_1": 0.5,
        "picture_recall_at_5": 1.0,
    }


def test_wrong_captions_stand_in_the_way():
    x = pictures([[1.0, 2, 0, 0], [0.5, 2, 0, 0], [0, 0, 2, 1], [0, 0, 1, 2]])
    captions = ("alpha", "beta", "gamma", "delta")
    assert recalls(x, captions)["text_recall_at_1"] == 0.75
    mistaken = recalls(x, ("alpha", "beta", "gamma", "gamma"), ("beta", "alpha", "delta", "delta"))
    assert mistaken["text_recall_at_1"] == 0.5  # the fourth has its wrong caption before it
    assert mistaken["picture_recall_at_1"] == 1.0  # wrong captions seek no picture


def test_a_caption_that_reads_the_same_is_right_and_a_tie_is_wrong():
    x = pictures([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]])
    found = recalls(x, ("alpha", "Alpha!", "gamma", "delta"))
    assert found["text_recall_at_1"] == 0.75


def test_batches_that_are_not_full_are_left_out():
    x = pictures([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    (figure, *_) = retrieval(known(), x, NAMES[:3], size=2)
    assert figure.n == 2
    for bad in ((x, NAMES[:2]), (x, NAMES[:3], NAMES[:1])):
        with pytest.raises(InputError, match="as many wrong captions"):
            retrieval(known(), *bad, size=2)
    with pytest.raises(InputError, match="at least 4"):
        retrieval(known(), x, NAMES[:3], size=4)


def test_written_and_read_back(tmp_path):
    torch.manual_seed(0)
    judge = Judge(net=CONFIG.build(), words=WORDS)
    judge.save(tmp_path / "new")
    back, x = load_judge(tmp_path / "new"), torch.randn(3, 3, 8, 8)
    assert back.id == judge.id
    assert back.pictures(x).equal(judge.pictures(x))
    assert back.texts(NAMES).equal(judge.texts(NAMES))
    with pytest.raises(InputError, match="exists"):
        judge.save(tmp_path / "new")
    judge.save(tmp_path / "half", torch.float16)
    assert (load_judge(tmp_path / "half").pictures(x) * judge.pictures(x)).sum(1).min() > 0.999
    assert {t.dtype for t in read_weights(tmp_path / "half" / "judge.safetensors").values()} == {torch.float16}


def test_a_damaged_folder_is_refused(tmp_path):
    Judge(net=CONFIG.build(), words=WORDS).save(tmp_path)
    data = json.loads((tmp_path / "judge.json").read_text())
    data["net"]["features"] = 5
    (tmp_path / "judge.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="not those of its configuration"):
        load_judge(tmp_path)
    with pytest.raises(InputError, match="numbers"):
        Judge(net=CONFIG.build(), words=Words(vocabulary=("a",), length=3))
    with pytest.raises(InputError, match="one for each"):
        known().cosines(torch.zeros(2, 3, 8, 8), ["alpha"])


def test_features_are_the_towers():
    torch.manual_seed(0)
    judge, x = Judge(net=CONFIG.build(), words=WORDS), torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        assert judge.extractor()(x).equal(judge.net.features(x))
