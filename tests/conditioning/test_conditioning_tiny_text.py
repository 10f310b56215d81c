"""The tiny encoders stand for real ones: their tokenizers read any prompt, each in the way of its kind."""

import tiny_text


def test_tokenizers_read_what_they_know_and_what_they_do_not():
    for make in (tiny_text.clip_tokenizer, tiny_text.t5_tokenizer, tiny_text.bert_tokenizer, tiny_text.gemma_tokenizer):
        tokenizer = make()
        assert tokenizer.decode(tokenizer("a photo of a cat").input_ids, skip_special_tokens=True) == "a photo of a cat"
        assert tokenizer("xyzzy (42)").input_ids != tokenizer("a photo").input_ids
        assert tokenizer("").input_ids
        assert len({tokenizer.convert_tokens_to_ids(t) for t in tokenizer.get_vocab()}) == len(tokenizer)


def test_each_pads_in_the_way_of_its_kind():
    first = tiny_text.clip_tokenizer(), tiny_text.clip_tokenizer(pad="!")
    assert [t.pad_token_id for t in first] == [first[0].eos_token_id, 0]
    assert tiny_text.gemma_tokenizer().padding_side == "left"
    assert [t.model_max_length for t in (*first, tiny_text.bert_tokenizer())] == [77, 77, 77]
