"""What --cfg-options brings into a config, and what the command line refuses in a sentence."""

from __future__ import annotations

import pytest
from mmengine.config import DictAction
from scripts import load_script
from small_run import CONFIG

from mmdet_droploss.engine.command_line import make_parser


def read(*options):
    return make_parser("").parse_args(["config.py", "--cfg-options", *options]).cfg_options


@pytest.mark.parametrize(
    "text, value",
    [
        ("/tmp/my data/train (1)/", "/tmp/my data/train (1)/"),
        ("two  blanks", "two  blanks"),
        ("[traffic light,car]", ["traffic light", "car"]),
        ("[(1, 2), [a b , c]]", [(1, 2), ["a b", "c"]]),
        ("'traffic light', car", ["traffic light", "car"]),
        ("Scale = 3", "Scale = 3"),
        ("10 20", "10 20"),
        (" 5 ", 5),
        ("", ""),
    ],
)
def test_a_value_keeps_its_blanks(text, value):
    assert read(f"a.b={text}", "c=1") == {"a.b": value, "c": 1}


@pytest.mark.parametrize(
    "text",
    ["1", "1e-3", "true", "None", "a=b", "a,b", "[1, 2]", "[ 1 ,2 ]", "(1, 2)", "[[1, 2], (3, 4)]"]
    + ["[]", "'[1, 2]'", '["a", "b"]', "[' a', \" 1\" ]", "(a)", "[a](b)"],
)
def test_what_mmengine_reads_rightly_is_read_the_same(text):
    assert repr(read(f"key={text}")["key"]) == repr(DictAction._parse_iterable(text))


def test_options_add_up():
    more = ["config.py", "--cfg-options", "a=1", "b=x y", "--cfg-options", "b=2", "c=3"]
    assert make_parser("").parse_args(more).cfg_options == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    "option, message",
    [
        ("randomness.seed", "takes KEY=VALUE, but got 'randomness.seed': write randomness.seed="),
        ("x=[1,2", "the brackets in 'x=[1,2' do not match. A value with a comma in it is a list"),
        ("x=1],[2", "the brackets in 'x=1],[2' do not match"),
    ],
)
def test_an_option_that_cannot_be_read_is_said(option, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        read("a=1", option)
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def train():
    return load_script("tools/train.py")


def test_parts_of_a_config_that_are_none(train):
    arguments = [str(CONFIG), "--cfg-options", "auto_scale_lr=None", "custom_hooks=None"]
    cfg = train.load_config(train.parse_args([*arguments, "--record-gradients", "3"]))
    assert [hook.type for hook in cfg.custom_hooks] == ["CategoryGradientHook"]
    with pytest.raises(ValueError, match=r"needs auto_scale_lr=dict\(base_batch_size=...\) in"):
        train.load_config(train.parse_args([*arguments, "--auto-scale-lr"]))
