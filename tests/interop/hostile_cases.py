"""Files that somebody made to run code, to crash a reader, or to fill a machine; run as a child that reads them all.

`python hostile_cases.py FOLDER` builds each case from a good model, loads it, and prints what happened as JSON: the
class and the text of the error, processor seconds, and the memory that the load added.
"""

import contextlib
import json
import os
import pickle
import shutil
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path

CASES = {}


def case(base):
    """Register a function that changes a copy of `base` ("folder", "file", "ours"), or makes a "lora" or a "word"."""

    def known(build):
        CASES[build.__name__] = (base, build)
        return build

    return known


def raw(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def entry(shape=(2,), dtype="F32", offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HEADERS = {
    "an_empty_table": ({}, b""),
    "not_json": (b"{oops}", b""),
    "a_list": ([1, 2], b""),
    "no_text": (b"\xff\xfe\xff", b""),
    "nested_deeply": (b"[" * 200_000, b""),
    "nested_tables": (b'{"a":' * 100_000, b""),
    "a_name_twice": (b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8),
    "a_field_twice": (b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "metadata_no_texts": ({"__metadata__": {"a": {"b": 1}}, "a": entry()}, b"\0" * 8),
    "metadata_a_list": ({"__metadata__": [1], "a": entry()}, b"\0" * 8),
    "a_dtype_of_nobody": ({"a": entry(dtype="F4096")}, b"\0" * 8),
    "a_dtype_that_is_a_number": ({"a": entry(dtype=7)}, b"\0" * 8),
    "a_negative_size": ({"a": entry((-2,))}, b"\0" * 8),
    "a_broken_size": ({"a": entry((2.0,))}, b"\0" * 8),
    "a_size_that_is_true": ({"a": entry((True, 2))}, b"\0" * 8),
    "a_hundred_dimensions": ({"a": entry((1,) * 100 + (2,))}, b"\0" * 8),
    "nothing_times_everything": ({"a": entry((0, 1 << 62), offsets=(0, 0))}, b""),
    "sizes_that_overflow": ({"a": entry((1 << 33, 1 << 33))}, b"\0" * 8),
    "offsets_the_wrong_way_round": ({"a": entry(offsets=(8, 0))}, b"\0" * 8),
    "offsets_beyond_the_file": ({"a": entry(offsets=(1 << 40, (1 << 40) + 8))}, b"\0" * 8),
    "offsets_that_are_texts": ({"a": entry(offsets=("0", "8"))}, b"\0" * 8),
    "offsets_one_too_many": ({"a": entry(offsets=(0, 4, 8))}, b"\0" * 8),
    "no_offsets": ({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "two_on_one_place": ({"a": entry(), "b": entry()}, b"\0" * 8),
    "a_hole": ({"a": entry(), "b": entry(offsets=(16, 24))}, b"\0" * 24),
    "more_at_the_end": ({"a": entry()}, b"\0" * 800),
    "a_path_for_a_name": ({"../../../etc/passwd": entry()}, b"\0" * 8),
    "a_very_long_name": ({"a" * 1_000_000: entry()}, b"\0" * 8),
    "a_name_with_an_end": ({"a\0b": entry()}, b"\0" * 8),
    "a_number_of_10000_digits": (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 10_000), b""),
    "many_empty_tensors": ({f"t{i}": entry((0,), offsets=(0, 0)) for i in range(60_000)}, b""),
    "nearly_all_header": (b"{}" + b" " * (9 << 20), b""),
}
for _name, (_header, _body) in HEADERS.items():

    def _build(path, header=_header, body=_body):
        raw(path, header, body)

    _build.__name__ = f"header_{_name}"
    case("file")(_build)


@case("file")
def file_empty(path):
    path.write_bytes(b"")


@case("file")
def file_of_seven_bytes(path):
    path.write_bytes(b"\1" * 7)


@case("file")
def file_with_a_header_of_8_exabytes(path):
    path.write_bytes(struct.pack("<Q", 1 << 63) + b"{}")


@case("file")
def file_cut(path):
    path.write_bytes(path.read_bytes()[:-100])


class Code:
    def __reduce__(self):
        return (os.system, (f"touch {MARKER}",))


@case("file")
def pickle_under_another_suffix(path):
    path.write_bytes(pickle.dumps({"a": Code()}))


@case("file")
def pickle_of_protocol_0_under_another_suffix(path):
    path.write_bytes(f"cos\nsystem\n(S'touch {MARKER}'\ntR.".encode())


@case("file")
def pickle_in_a_zip_under_another_suffix(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Code()))


@case("file")
def pickle_called_ckpt(path):
    (path.with_suffix(".ckpt")).write_bytes(pickle.dumps(Code()))
    return path.with_suffix(".ckpt")


@case("folder")
def pickles_instead_of_weights(path):
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (path / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Code()))


@case("folder")
def pickle_called_safetensors_in_a_folder(path):
    (path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(pickle.dumps(Code()))


def tensors(path, change):
    """Change a file's header and body: `change(header, body) -> body`."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    body = change(header, data[8 + length :])
    raw(path, header, data[8 + length :] if body is None else body)


@case("file")
def file_of_another_kind(path):
    raw(path, {"who.knows": entry()}, b"\0" * 8)


@case("file")
def file_of_whole_numbers(path):
    def change(header, body):
        for name, said in header.items():
            if name != "__metadata__" and said["dtype"] == "F32":
                said["dtype"] = "I32"

    tensors(path, change)


@case("file")
def file_whose_levels_do_not_end(path):
    def change(header, body):
        header.pop("__metadata__", None)
        end = max(e["data_offsets"][1] for e in header.values())
        for i in range(3, 20_000):
            header[f"model.diffusion_model.input_blocks.{i}.0.op.weight"] = entry((0,), offsets=(end, end))

    tensors(path, change)


@case("file")
def file_with_a_block_of_no_channels(path):
    def change(header, body):
        header.pop("__metadata__", None)
        end = max(e["data_offsets"][1] for e in header.values())
        at = "model.diffusion_model.input_blocks.1.0.out_layers.3.weight"
        size = header[at]["data_offsets"][1] - header[at]["data_offsets"][0]
        header[at] = entry((0, 32, 3, 3), offsets=(end, end))
        header["model_ema.filler"] = entry((size // 4,), offsets=(0, size))

    tensors(path, change)


def metadata(said):
    def build(path):
        def change(header, body):
            known = json.loads(header["__metadata__"]["sfumato"])
            header["__metadata__"]["sfumato"] = said(known) if callable(said) else said

        tensors(path, change)

    return build


def told(**changes):
    return lambda known: json.dumps(known | changes)


METADATA = {
    "not_json": "{oops",
    "nested_deeply": "[" * 100_000,
    "naming_code": told(net={"kind": "os.system", "command": "touch x"}),
    "of_another_class": told(net={"kind": "DDIM", "eta": 0.0}),
    "of_another_network": told(net={"kind": "DiTConfig"}),
    "with_a_billion_blocks": lambda known: json.dumps(known | {"net": known["net"] | {"layers": 1_000_000_000}}),
    "with_a_million_blocks": lambda known: json.dumps(known | {"net": known["net"] | {"layers": 1_000_000}}),
    "with_deep_transformers": lambda known: json.dumps(
        known | {"net": known["net"] | {"transformers": [4_000_000, 0]}}
    ),
    "with_wide_levels": lambda known: json.dumps(known | {"net": known["net"] | {"widths": [4_000_000, 4_000_000]}}),
    "with_negative_widths": lambda known: json.dumps(known | {"net": known["net"] | {"widths": [-32, 64]}}),
    "without_groups": lambda known: json.dumps(known | {"net": known["net"] | {"groups": 0}}),
    "with_a_huge_shape": told(shape=[4, 1 << 40, 1 << 40]),
    "with_a_shape_that_is_a_text": told(shape="48x48"),
    "lacking_everything": "{}",
    "with_code_for_a_tower": told(towers={"clip": ["builtins.exec", {"a": 1}]}),
    "with_a_tower_of_a_billion_layers": lambda known: json.dumps(
        known | {"towers": {"clip": ["CLIPTextModel", known["towers"]["clip"][1] | {"num_hidden_layers": 10**9}]}}
    ),
}
for _name, _said in METADATA.items():
    _build = metadata(_said)
    _build.__name__ = f"metadata_{_name}"
    case("file")(_build)


def changed(file, **changes):
    def build(path):
        data = json.loads((path / file).read_text()) | changes
        (path / file).write_text(json.dumps(data))

    return build


SETTINGS = {
    "a_pipeline_named_after_code": ("model_index.json", {"_class_name": "os.system"}),
    "a_pipeline_that_is_a_list": ("model_index.json", {"_class_name": ["os", "system"]}),
    "a_network_named_after_code": ("unet/config.json", {"_class_name": "subprocess.Popen"}),
    "a_network_of_nowhere": ("unet/config.json", {"_class_name": "../../evil"}),
    "a_network_that_is_a_codec": ("unet/config.json", {"_class_name": "AutoencoderKL"}),
    "a_billion_channels": ("unet/config.json", {"block_out_channels": [10**9, 10**9]}),
    "a_billion_layers": ("unet/config.json", {"layers_per_block": 10**9}),
    "a_million_layers": ("unet/config.json", {"layers_per_block": 10**6}),
    "deep_transformers": ("unet/config.json", {"transformer_layers_per_block": 4_000_000}),
    "negative_channels": ("unet/config.json", {"block_out_channels": [-32, -64]}),
    "no_groups": ("unet/config.json", {"norm_num_groups": 0}),
    "channels_that_are_texts": ("unet/config.json", {"block_out_channels": ["32", "64"]}),
    "channels_that_are_nothing": ("unet/config.json", {"block_out_channels": None}),
    "no_heads": ("unet/config.json", {"attention_head_dim": 0}),
    "a_setting_of_nobody": ("unet/config.json", {"run_this": "rm -rf"}),
    "another_shape": ("unet/config.json", {"cross_attention_dim": 31}),
    "no_scale": ("vae/config.json", {"scaling_factor": "x"}),
    "levels_without_end": ("vae/config.json", {"block_out_channels": [16] * 100_000}),
    "a_sampler_named_after_code": ("scheduler/scheduler_config.json", {"_class_name": "os.system"}),
    "a_trillion_times": ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
    "a_billion_times": ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}),
    "no_times": ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}),
    "betas_that_are_texts": ("scheduler/scheduler_config.json", {"trained_betas": ["x"]}),
    "betas_that_are_nan": ("scheduler/scheduler_config.json", {"beta_start": float("nan")}),
    "betas_above_one": ("scheduler/scheduler_config.json", {"beta_end": 1e308, "beta_schedule": "linear"}),
    "a_tower_of_nobody": ("model_index.json", {"text_encoder": ["os", "system"]}),
    "a_tower_of_a_billion_layers": ("text_encoder/config.json", {"num_hidden_layers": 10**9}),
    "a_tower_of_a_trillion_words": ("text_encoder/config.json", {"vocab_size": 10**12}),
    "a_tower_of_negative_width": ("text_encoder/config.json", {"hidden_size": -4}),
    "a_tower_that_is_quantised": ("text_encoder/config.json", {"quantization_config": {"quant_method": "x"}}),
}
for _name, (_file, _changes) in SETTINGS.items():
    _build = changed(_file, **_changes)
    _build.__name__ = f"settings_{_name}"
    case("folder")(_build)


@case("folder")
def settings_with_code_beside_them(path):
    """`auto_map` and `trust_remote_code` are passed over: nothing here ever imports what a folder names."""
    for file in ("text_encoder/config.json", "tokenizer/tokenizer_config.json"):
        data = json.loads((path / file).read_text())
        data["auto_map"] = {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
        data["trust_remote_code"] = True
        (path / file).write_text(json.dumps(data))
        (path / file).with_name("evil.py").write_text(f"import os\nos.system('touch {MARKER}')\nclass Evil: pass\n")


@case("folder")
def settings_naming_code_for_a_tokenizer(path):
    for file in ("text_encoder/config.json", "tokenizer/tokenizer_config.json"):
        data = json.loads((path / file).read_text())
        data["auto_map"] = {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
        data["tokenizer_class"] = "evil.Evil"
        (path / file).write_text(json.dumps(data))
        (path / file).with_name("evil.py").write_text(f"import os\nos.system('touch {MARKER}')\nclass Evil: pass\n")


@case("folder")
def settings_of_10_mib(path):
    (path / "unet" / "config.json").write_text('{"a": "' + "x" * (10 << 20) + '"}')


@case("folder")
def settings_nested_deeply(path):
    (path / "unet" / "config.json").write_text('{"a":' * 100_000)


@case("folder")
def settings_with_a_key_twice(path):
    text = (path / "unet" / "config.json").read_text().strip()
    (path / "unet" / "config.json").write_text(text[:-1] + ', "in_channels": 4, "in_channels": 5}')


@case("folder")
def settings_in_another_encoding(path):
    (path / "unet" / "config.json").write_text('{"a": 1}', encoding="utf-16")


@case("folder")
def settings_that_are_a_folder(path):
    (path / "unet" / "config.json").unlink()
    (path / "unet" / "config.json").mkdir()


@case("folder")
def settings_that_never_end(path):
    (path / "model_index.json").unlink()
    os.mkfifo(path / "model_index.json")


@case("folder")
def weights_that_never_end(path):
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    os.mkfifo(path / "unet" / "diffusion_pytorch_model.safetensors")


@case("folder")
def weights_that_are_a_device(path):
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (path / "unet" / "diffusion_pytorch_model.safetensors").symlink_to("/dev/zero")


@case("folder")
def weights_that_link_out_of_the_folder(path):
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (path / "unet" / "diffusion_pytorch_model.safetensors").symlink_to("/etc/passwd")


@case("folder")
def weights_that_link_to_themselves(path):
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (path / "unet" / "diffusion_pytorch_model.safetensors").symlink_to("diffusion_pytorch_model.safetensors")


def sharded(table):
    def build(path):
        folder = path / "unet"
        whole = folder / "diffusion_pytorch_model.safetensors"
        first = folder / "diffusion_pytorch_model-00001-of-00002.safetensors"
        whole.rename(first)
        shutil.copyfile(first, folder / "diffusion_pytorch_model-00002-of-00002.safetensors")
        data = first.read_bytes()
        names = [n for n in json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]) if n != "__metadata__"]
        text = table(names, [first.name, first.name.replace("-00001", "-00002")])
        (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
            text if isinstance(text, str) else json.dumps(text)
        )

    return build


SHARDS = {
    "that_overlap": lambda names, files: {"weight_map": {n: files[i % 2] for i, n in enumerate(names)}},
    "above_the_folder": lambda names, files: {
        "weight_map": dict.fromkeys(names, "../vae/diffusion_pytorch_model.safetensors")
    },
    "at_the_root": lambda names, files: {"weight_map": dict.fromkeys(names, "/etc/passwd")},
    "with_back_slashes": lambda names, files: {"weight_map": dict.fromkeys(names, "..\\..\\x.safetensors")},
    "that_are_missing": lambda names, files: {"weight_map": dict.fromkeys(names, "other.safetensors")},
    "that_are_pickles": lambda names, files: {"weight_map": dict.fromkeys(names, "pytorch_model.bin")},
    "that_lack_a_tensor": lambda names, files: {"weight_map": dict.fromkeys([*names, "more.weight"], files[0])},
    "of_no_files": lambda names, files: {"weight_map": [1, 2]},
    "of_numbers": lambda names, files: {"weight_map": dict.fromkeys(names, 7)},
    "without_a_map": lambda names, files: {"metadata": {}},
    "with_an_index_of_17_mib": lambda names, files: '{"weight_map": {"a": "' + "x" * (17 << 20) + '"}}',
    "that_are_not_json": lambda names, files: "{oops",
}
for _name, _table in SHARDS.items():
    _build = sharded(_table)
    _build.__name__ = f"shards_{_name}"
    case("folder")(_build)


@case("folder")
def a_tokenizer_of_rubbish(path):
    (path / "tokenizer" / "tokenizer.json").write_text('{"model": {"type": "Evil"}, "added_tokens": 7}')


@case("folder")
def a_tokenizer_that_is_missing(path):
    shutil.rmtree(path / "tokenizer")


def ours(**changes):
    return changed("sfumato.json", **changes)


OURS = {
    "naming_code": ours(conditioner={"kind": "os.system"}),
    "with_towers_elsewhere": ours(
        conditioner={
            "kind": "TextConfig",
            "family": {"kind": "ClipText"},
            "towers": ["../../clip"],
            "syntax": {"kind": "Verbatim"},
        }
    ),
    "with_a_family_that_is_none": ours(
        conditioner={
            "kind": "TextConfig",
            "family": {"kind": "DDIM"},
            "towers": ["clip"],
            "syntax": {"kind": "Verbatim"},
        }
    ),
    "with_a_codec_that_is_none": ours(codec={"kind": "ClipText"}),
    "with_a_codec_of_a_million_layers": ours(codec={"kind": "AutoencoderKLConfig", "layers": 1_000_000}),
}
for _name, _build in OURS.items():
    _build.__name__ = f"ours_{_name}"
    case("ours")(_build)


@case("ours")
def ours_with_an_origin_of_a_list(path):
    (path / "origin.json").write_text("[]")


@case("ours")
def ours_with_an_origin_elsewhere(path):
    (path / "origin.json").write_text('{"network": "", "codec": "", "metadata": {}, "path": "../../x"}')


@case("ours")
def ours_with_an_origin_that_is_a_pickle(path):
    (path / "origin.json").write_text('{"network": "", "codec": "", "metadata": {}}')
    (path / "origin.safetensors").write_bytes(pickle.dumps(Code()))


@case("ours")
def ours_with_an_origin_that_never_ends(path):
    os.mkfifo(path / "origin.json")


def header_of(entries):
    """Return a builder of a file of these tensors, all in one place of no bytes or of zeros that nobody wrote."""

    def build(path):
        header, end = {}, 0
        for name, shape in entries.items():
            count = 4
            for size in shape:
                count *= size
            header[name] = entry(shape, offsets=(end, end + count))
            end += count
        raw(path, header)
        with open(path, "r+b") as file:
            file.truncate(file.seek(0, 2) + end)

    return build


DIT = {
    "y_embedder.embedding_table.weight": (3, 384),
    "blocks.0.adaLN_modulation.1.weight": (2304, 384),
    "x_embedder.proj.weight": (384, 4, 2, 2),
    "pos_embed": (1, 16, 384),
    "final_layer.linear.weight": (32, 384),
    "blocks.0.mlp.fc1.weight": (1536, 384),
}
PIXART = {"t_block.1.weight": (6, 1), "y_embedder.y_proj.fc1.weight": (1, 1), "x_embedder.proj.weight": (1152, 4, 2, 2)}
UVIT = {"decoder_pred.weight": (1, 1), "mid_block.attn.qkv.weight": (1, 1)}
LUMINA = {"cap_embedder.1.weight": (1, 1), "layers.0.attention.wk_y.weight": (1, 1)}
TRANSFORMERS = {
    "dit_of_nothing_but_its_marks": dict(list(DIT.items())[:2]),
    "dit_whose_patches_are_a_matrix": DIT | {"x_embedder.proj.weight": (384, 16)},
    "dit_of_patches_of_side_0": DIT | {"x_embedder.proj.weight": (384, 4, 0, 0)},
    "dit_of_no_width": DIT | {"x_embedder.proj.weight": (0, 4, 2, 2)},
    "dit_of_no_places": DIT | {"pos_embed": (1,)},
    "dit_of_ten_thousand_blocks": DIT | {f"blocks.{i}.attn.qkv.weight": (0, 1) for i in range(10_000)},
    "dit_of_no_blocks": DIT,
    "diffit_of_one_table": {
        "blocks.0.attn.relative_position_bias_table": (0, 0),
        "x_embedder.proj.weight": (1, 1, 1, 1),
    },
    "diffit_of_block_a_billion": {
        "blocks.0.attn.relative_position_bias_table": (49, 2),
        "blocks.1000000000.x": (1,),
        "x_embedder.proj.weight": (16, 4, 2, 2),
        "final_layer.linear.weight": (32, 16),
        "blocks.0.mlp.fc1.weight": (64, 16),
        "y_embedder.embedding_table.weight": (6, 16),
    },
    "diffit_whose_block_is_a_word": {"blocks.0.attn.relative_position_bias_table": (49, 2), "blocks.x.y": (1,)},
    "pixart_of_no_size": PIXART | {"final_layer.linear.weight": (32, 1152)},
    "pixart_of_windows_of_nothing": PIXART | {"blocks.0.attn.sr.weight": (), "pos_embed": (1, 4, 1)},
    "hunyuan_of_two_marks": {"text_embedding_padding": (1, 1), "pooler.positional_embedding": (1, 1)},
    "hunyuan_of_wrong_ranks": {"text_embedding_padding": (1,), "pooler.positional_embedding": ()},
    "lumina_of_two_marks": LUMINA,
    "lumina_of_no_heads": LUMINA | {"x_embedder.weight": (72, 0), "layers.0.attention.wk.weight": (0, 1)},
    "uvit_of_two_marks": UVIT,
    "uvit_of_no_tokens": UVIT | {"patch_embed.proj.weight": (512, 4, 2, 2), "pos_embed": (1, 0, 512)},
    "sd3_of_one_tensor": {"joint_blocks.0.x_block.attn.qkv.weight": (1, 1)},
}
for _name, _entries in TRANSFORMERS.items():
    _build = header_of(_entries)
    _build.__name__ = f"file_{_name}"
    case("file")(_build)

AT = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
LORAS = {
    "of_no_rank": {f"{AT}.lora_down.weight": (0, 64), f"{AT}.lora_up.weight": (64, 0)},
    "of_one_half": {f"{AT}.lora_down.weight": (2, 64)},
    "of_numbers": {f"{AT}.lora_down.weight": (), f"{AT}.lora_up.weight": ()},
    "of_another_width": {f"{AT}.lora_down.weight": (2, 63), f"{AT}.lora_up.weight": (64, 2)},
    "of_vast_products": {f"{AT}.hada_w{i}_{j}": (64, 5000) if j == "a" else (5000, 64) for i in "12" for j in "ab"},
    "of_a_vast_kronecker": {f"{AT}.lokr_w1": (100_000, 1), f"{AT}.lokr_w2": (100_000, 1)},
    "of_a_vast_core": {
        **{f"{AT}.lokr_w2_{j}": (300, 2) for j in "ab"},
        f"{AT}.lokr_w1": (2, 2),
        f"{AT}.lokr_t2": (300, 300, 8, 8),
    },
    "of_ten_thousand_strangers": {
        f"lora_unet_x{i}.lora_{h}.weight": (1, 1) for i in range(5000) for h in ("up", "down")
    },
    "of_nothing": {f"{AT}.alpha": ()},
}
for _name, _entries in LORAS.items():
    _build = header_of(_entries)
    _build.__name__ = f"lora_{_name}"
    case("lora")(_build)


@case("lora")
def lora_that_is_a_pickle(path):
    path.write_bytes(pickle.dumps(Code()))


@case("lora")
def lora_whose_settings_are_nested_deeply(path):
    header_of({f"{AT}.lora_down.weight": (2, 64), f"{AT}.lora_up.weight": (64, 2)})(path)
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length]) | {"__metadata__": {"lora_adapter_metadata": "[" * 100_000}}
    raw(path, header, data[8 + length :])


@case("word")
def word_that_is_a_pickle(path):
    path.write_bytes(pickle.dumps(Code()))


@case("word")
def word_of_17_mib(path):
    path.write_bytes(b"\0" * (17 << 20))


@case("word")
def word_of_a_thousand_vectors(path):
    header_of({"emb_params": (1000, 32)})(path)


@case("word")
def word_of_another_width(path):
    header_of({"emb_params": (1, 31)})(path)


@case("word")
def word_of_many_words(path):
    header_of({f"w{i}": (1, 64) for i in range(20)})(path)


@case("word")
def word_of_no_numbers(path):
    raw(path, {"emb_params": entry((1, 32), offsets=(0, 128))}, b"\xff" * 128)


@case("word")
def word_of_whole_numbers(path):
    raw(path, {"emb_params": entry((1, 32), "I32", (0, 128))}, b"\1" * 128)


@case("lora")
def lora_of_no_numbers(path):
    halves = {f"{AT}.lora_down.weight": entry((1, 64), offsets=(0, 256))}
    raw(path, halves | {f"{AT}.lora_up.weight": entry((64, 1), offsets=(256, 512))}, b"\xff" * 512)


@case("lora")
def lora_whose_settings_are_of_another_kind(path):
    halves = {f"{AT}.lora_down.weight": entry((1, 64), offsets=(0, 256))}
    halves[f"{AT}.lora_up.weight"] = entry((64, 1), offsets=(256, 512))
    said = {"lora_adapter_metadata": '{"unet.r": 1, "unet.lora_alpha": 1, "unet.alpha_pattern": ["x"]}'}
    raw(path, {"__metadata__": said} | halves, b"\0\0\0\x3f" * 128)


HARMLESS = ("settings_with_code_beside_them", "settings_naming_code_for_a_tokenizer")  # loads, and runs none of it
MARKER = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "ran"


def peak(reset=False):
    """Return the greatest resident memory of this process since the last reset, in bytes."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def main(folder):
    import torch

    import sfumato as sf
    from sfumato.conditioning import read_inversion, with_inversions

    torch.set_num_threads(1)
    bases = {"folder": folder / "good", "file": folder / "good.safetensors", "ours": folder / "good-ours"}
    pipe = sf.load(bases["folder"])

    def word(path):
        return with_inversions(pipe.conditioner, [read_inversion(path)])

    opened = {
        "folder": sf.load,
        "ours": sf.load,
        "file": lambda path: sf.load(path, tokenizer=bases["folder"]),
        "lora": pipe.with_lora,
        "word": word,
    }
    for name, path in bases.items():  # warm up: what is imported once is nobody's load
        opened[name](path)
    results = {}
    warnings.simplefilter("ignore")
    for name, (base, build) in CASES.items():
        at = folder / "cases" / (name + ("" if base in ("folder", "ours") else ".safetensors"))
        at.parent.mkdir(exist_ok=True)
        if base in bases:
            (shutil.copyfile if base == "file" else shutil.copytree)(bases[base], at)
        at = build(at) or at
        before, start = peak(reset=True), time.process_time()
        try:
            opened[base](at)
            error, text, kind = None, "", "loaded"
        except Exception as caught:
            error, text, kind = type(caught).__mro__, str(caught), type(caught).__name__
        results[name] = {
            "kind": kind,
            "ours": error is not None and any(c is sf.SfumatoError for c in error),
            "text": text,
            "seconds": time.process_time() - start,
            "bytes": peak() - before,
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
