"""Plain prompts by task: each says what its task is about, as the world's parser reads it."""

import pytest

from sfumato.data.tableau import parse
from sfumato.recipes.geneval import TASKS, prompts

SAYS = {
    "single_object": [{"shape"}],
    "two_objects": [{"shape"}, {"shape"}],
    "counting": [{"shape"}],
    "colours": [{"shape", "colour"}],
    "sizes": [{"shape", "size"}],
    "textures": [{"shape", "texture"}],
    "position": [{"shape"}, {"shape"}],
    "colour_binding": [{"shape", "colour"}, {"shape", "colour"}],
}


@pytest.mark.parametrize("task", TASKS)
def test_prompts_say_what_their_task_asks_for(task):
    drawn = prompts(task, 60)
    assert drawn[:20] == prompts(task, 20)
    assert drawn != prompts(task, 60, seed=1)
    assert len(set(drawn)) > 10 if task != "single_object" else len(set(drawn)) > 8
    for text in drawn:
        claims = parse(text)
        assert claims.unknown == ()
        assert [set(m.said) for m in claims.mentions] == SAYS[task], text
        assert len(claims.relations) == (task == "position")
        assert claims.mentions[0].number in ((2, 3, 4) if task == "counting" else (1,))
        if len(claims.mentions) == 2:
            assert claims.mentions[0].shape != claims.mentions[1].shape
            assert task != "colour_binding" or claims.mentions[0].colour != claims.mentions[1].colour
