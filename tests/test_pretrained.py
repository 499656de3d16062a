"""Pre-trained encoders of other shapes, transformers' own made small: shape, text, padding."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from config import MOONSHINE_TINY, XLSR_LARGE
from speech.bodies import build_body
from speech.pretrained import encoder_of, find_source, load_config, load_pretrained
from wav2vec import SpeechEncoder, TextTeacher

SMALL = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    conv_dim=(16,) * 7, num_conv_pos_embedding_groups=2, num_conv_pos_embeddings=16, vocab_size=33,
)  # fmt: skip
NORMS = {  # as facebook/wav2vec2-base-960h and as the XLSR models
    "group": dict(feat_extract_norm="group"),
    "layer": dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
}


@pytest.fixture(params=NORMS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder as `save_pretrained` leaves it, of either norm."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**SMALL, **NORMS[request.param]))
    model.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_the_network_takes_the_shape_of_any_source(source: str) -> None:
    encoder = encoder_of(source, XLSR_LARGE)
    assert (encoder["hidden_size"], encoder["mask_time_prob"]) == (32, 0.05)  # theirs, ours
    json.dumps(encoder)  # goes into a checkpoint's header
    body = build_body(encoder)
    pretrained = load_pretrained(source)
    body.load_state_dict(pretrained.wav2vec2.state_dict())
    audio = torch.randn(1, 8_000)
    with torch.no_grad():
        torch.testing.assert_close(
            body.eval()(audio).last_hidden_state,
            pretrained.wav2vec2.eval()(audio).last_hidden_state,
        )
    assert encoder_of(source, encoder) is encoder


def test_the_recipes_encoders_are_their_sources_own() -> None:
    assert encoder_of("synthetic/encoder", MOONSHINE_TINY) is MOONSHINE_TINY


def test_a_padded_batch_gives_each_clip_what_it_gets_alone(source: str) -> None:
    """Features and text of the teacher, and the encoder's features at 30 fps."""
    torch.manual_seed(1)
    pretrained = load_pretrained(source)
    teacher = TextTeacher(pretrained)
    encoder = SpeechEncoder(encoder_of(source, XLSR_LARGE), 30, 1).eval()
    encoder.body.load_state_dict(pretrained.wav2vec2.state_dict())
    audio, lengths = torch.randn(3, 16_000), torch.tensor([16_000, 7_777, 12_345])
    for clip, n in zip(audio, lengths, strict=True):
        clip[n:] = 0
    with torch.no_grad():
        features, logits = teacher(audio, lengths)
        hidden = encoder(audio, lengths)
        for i, n in enumerate(lengths.tolist()):
            alone = teacher(audio[i : i + 1, :n])
            for together, apart in ((features, alone[0]), (logits, alone[1])):
                torch.testing.assert_close(
                    together[i, : apart.shape[1]], apart[0], atol=2e-5, rtol=1e-4
                )
            apart = encoder(audio[i : i + 1, :n])[0]
            torch.testing.assert_close(hidden[i, : len(apart)], apart, atol=2e-5, rtol=1e-4)


def test_the_teacher_is_the_transformers_model(source: str) -> None:
    pretrained = load_pretrained(source)
    audio = torch.randn(1, 9_000)
    with torch.no_grad():
        torch.testing.assert_close(
            TextTeacher(pretrained)(audio)[1], pretrained.eval()(audio).logits
        )


def test_a_body_without_a_ctc_head_has_features_and_no_text(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_pretrained(source).wav2vec2.save_pretrained(tmp_path / "body")
    teacher = TextTeacher(load_pretrained(str(tmp_path / "body")))
    warning = capsys.readouterr().err
    assert (
        warning.count("\n") == 1
        and "no CTC head (lm_head): the lip reader is trained on features alone" in warning
    )
    features, logits = teacher(torch.randn(1, 8_000))
    assert features.shape == (1, 24, 32) and logits.shape == (1, 24, 1)
    assert len(teacher.decode_text(logits)[0]) == 0


def test_spec_augment_leaves_clips_shorter_than_its_mask_whole() -> None:
    config = SMALL | {"model_type": "wav2vec2", "apply_spec_augment": True, "mask_time_prob": 0.5}
    encoder = SpeechEncoder(config, 30, 1).train()
    assert encoder(torch.randn(1, 4_000)).shape == (1, 7, 32)  # masks are 10 frames long


def _without(name: str) -> object:
    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        others = {key: value for key, value in weights.items() if name not in key}
        save_file(others, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def _config(**changes: object) -> object:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(content))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("encoder.layers.1."), "16 weights are missing (wav2vec2.encoder.layers.1."),
        (
            _config(model_type="hubert"),
            "model_type is 'hubert', expected wav2vec2 or wav2vec2-bert or moonshine",
        ),
        (
            _config(conv_stride=[5, 2, 2, 2, 2, 2, 1]),
            "one feature every 160 samples, expected every 320",
        ),
        (_config(add_adapter=True), "it has an adapter"),
        (_config(context_layers=5, hand_set_layers=3), "it is the small encoder of an earlier"),
        (_config(hidden_size=48), "cannot be loaded"),
        (lambda f: (f / "config.json").unlink(), "the folder needs config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_encoder_is_reported_in_one_line(
    spoil, message: str, source: str, tmp_path: Path
) -> None:
    spoil(Path(source))
    with pytest.raises(UserError) as caught:
        load_pretrained(source)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_torch_save_are_those_of_safetensors(source: str) -> None:
    expected = load_pretrained(source).state_dict()
    weights = load_file(f"{source}/model.safetensors")
    Path(f"{source}/model.safetensors").unlink()
    torch.save(weights, f"{source}/pytorch_model.bin")
    loaded = load_pretrained(source).state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)
    torch.save([weights], f"{source}/pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin: not a whole state dict"):
        load_pretrained(source)


def test_code_beside_an_encoder_is_neither_run_nor_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    classes = {"AutoConfig": "code.Config", "AutoModelForCTC": "code.Model"}
    for kind in ("unknown", "wav2vec2"):
        config = {"model_type": kind, "auto_map": classes, "architectures": ["Model"]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="cannot be loaded"):
            load_pretrained(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_hub_name_without_a_network_says_what_to_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        load_config("nobody/has-this-model")
    message = str(caught.value)
    assert "hf download nobody/has-this-model --local-dir DIR, then here: --encoder DIR" in message
    assert "\n" not in message


def test_sources_are_folders_here_or_in_the_project_or_names_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_source("synthetic/encoder").endswith("/synthetic/encoder")
    assert Path(find_source("synthetic/encoder")).is_absolute()
    assert find_source("facebook/wav2vec2-base-960h") == "facebook/wav2vec2-base-960h"
    (tmp_path / "models").mkdir()
    for wrong in ("models/none", "../nothing/here", "a b", "/no/such/folder"):
        with pytest.raises(UserError, match="no such folder; expected one with config.json"):
            find_source(wrong)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("num_hidden_layers", 2**63, "num_hidden_layers is '9223372036854775808'"),
        ("hidden_size", 2**15, "config.json describes [0-9,]+ weights, the files have"),
        ("conv_kernel", [], "cannot be loaded"),
        ("add_adapter", "yes", "cannot be loaded"),
    ],
)
def test_a_config_that_no_encoder_has_is_refused_before_memory_is_taken(
    field: str, value: int | list | str, reason: str, tmp_path: Path
) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    Wav2Vec2ForCTC(Wav2Vec2Config(**SMALL)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError, match=reason):
        load_pretrained(str(tmp_path))
