"""A reader that is examined: its answers by hand, in the order that data has them, and words that are not there."""

import pytest
import torch

from sfumato import InputError
from sfumato.core import Batch, Model, Noise, from_config, to_config
from sfumato.nets import ExamConfig, WordEncoderConfig
from sfumato.objectives import Examining

TEXT = WordEncoderConfig(words=11, length=6, width=12, layers=1, heads=2)
CONFIG = ExamConfig(text=TEXT, things=3, each=(4, 5), pairs=(7,), whole=(2, 3))
TOKENS = torch.tensor([[3, 4, 5, 0, 0, 0], [9, 2, 2, 7, 8, 10]])


def build():
    net = CONFIG.build().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
    return net


@torch.no_grad()
def test_answers_are_those_by_hand():
    net = build()
    kinds = net(TOKENS)
    for row, words in enumerate((3, 6)):
        states = net.text(TOKENS[row : row + 1, :])[0][0, : 1 + words]  # words that are there, and the start
        found = [torch.softmax(states @ net.keys.weight.T @ q + net.keys.bias @ q, 0) @ states for q in net.queries]
        for kind, answer in zip(kinds[:2], net.each, strict=True):
            for thing in range(3):
                torch.testing.assert_close(kind[row, thing], answer(found[thing]), rtol=1e-4, atol=1e-5)
        for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
            two = torch.nn.functional.gelu(net.both(torch.cat((found[i], found[j]))))
            torch.testing.assert_close(kinds[2][row, k], net.pairs[0](two), rtol=1e-4, atol=1e-5)
        for kind, answer in zip(kinds[3:], net.whole, strict=True):
            torch.testing.assert_close(kind[row, 0], answer(found[3]), rtol=1e-4, atol=1e-5)
    assert CONFIG.questions == (4, 4, 4, 5, 5, 5, 7, 7, 7, 2, 3)
    assert [n for kind in kinds for n in [kind.shape[-1]] * kind.shape[1]] == list(CONFIG.questions)


def test_the_loss_is_the_sum_of_each_kinds_mean_surprise():
    model = Model()
    model.net = build()
    answers = torch.stack([torch.tensor([n - 1 for n in CONFIG.questions]), torch.zeros(11, dtype=torch.int64)])
    loss = Examining()(model, Batch(answers, {"tokens": TOKENS}), Noise([0, 1]))
    for row, own in enumerate(answers):
        total, at = 0.0, 0
        for kind in model.net(TOKENS):
            p = kind[row].detach().softmax(-1)
            total += -sum(float(p[k, own[at + k]].log()) for k in range(len(p))) / len(p)
            at += len(p)
        assert float(loss[row]) == pytest.approx(total, rel=1e-5)
    with pytest.raises(InputError, match="10 answers for 11 questions"):
        Examining()(model, Batch(answers[:, 1:], {"tokens": TOKENS}), Noise([0, 1]))


def test_it_is_a_configuration_and_what_is_refused():
    assert from_config(to_config(CONFIG)) == CONFIG
    with pytest.raises(InputError, match="at least two answers"):
        ExamConfig(text=TEXT, things=3, each=(4, 1))
    with pytest.raises(InputError, match="at least two answers"):
        ExamConfig(text=TEXT, things=3, each=())
    with pytest.raises(InputError, match="things"):
        ExamConfig(text=TEXT, things=0, each=(4,))
