"""A language model and sequences -> a file: the right row at the right token, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from capturing_helpers import Capped, H, Model, Telling, V, asked, make_sequences
from torch import nn

import softpack
from softpack.capturing import asking, run
from softpack.capturing.teacher import LanguageTeacher
from softpack.errors import CodecError, DataError, ExistsError
from softpack.fingerprints import teacher_fingerprint
from softpack.records import LabelSpec
from softpack.sequences import Sequences


def assert_captured(labels, model, sequences, atol=1e-5):
    for item, tokens in enumerate(sequences):
        np.testing.assert_array_equal(labels.tokens(item), tokens)
        if len(tokens) > 1:
            expected, views = asked(model, tokens), np.arange(len(tokens) - 1)
            items = np.full(len(views), item)
            found = labels.read(items, views)
            torch.testing.assert_close(
                torch.log_softmax(found, 1), torch.log_softmax(expected, 1), atol=atol, rtol=0
            )
            log_z = torch.from_numpy(labels.replay(items, views)["log_z"])
            torch.testing.assert_close(log_z, expected.logsumexp(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 40, 8192])
@pytest.mark.parametrize("build", [Model, Capped])
def test_rows_are_what_the_model_says_of_each_sequence_alone(tmp_path, build, batch_tokens):
    model, sequences = build(), make_sequences()
    softpack.capture(model, sequences, tmp_path / "a.spk", "raw", dtype="fp32", batch_tokens=batch_tokens)

    labels = softpack.open(tmp_path / "a.spk")
    assert_captured(labels, model, sequences)
    assert labels.n_rows == sum(max(len(tokens) - 1, 0) for tokens in sequences)
    assert [path.name for path in tmp_path.iterdir()] == ["a.spk"]


def test_a_row_is_of_the_position_before_its_token(tmp_path):
    sequences = make_sequences(30, 18, seed=3)
    softpack.capture(Telling(), sequences, tmp_path / "a.spk", "raw", batch_tokens=50)
    labels = softpack.open(tmp_path / "a.spk")
    items, views = labels.cells()
    rows = labels.read(items, views)

    assert rows.argmax(1).tolist() == views.tolist()  # it says where it stands
    saw = np.array([sequences[item][view] for item, view in zip(items, views, strict=True)])
    assert (rows[torch.arange(len(rows)), torch.from_numpy(20 + saw % 20)] == 30).all()  # and what it saw last
    nexts = np.array([sequences[item][view + 1] for item, view in zip(items, views, strict=True)])
    np.testing.assert_array_equal(labels.replay(items, views)["token"], nexts)


def test_short_sequences_are_kept_without_rows(tmp_path):
    softpack.capture(Model(), [[], [3], [4, 5], [], [6]], tmp_path / "a.spk", "raw")
    labels = softpack.open(tmp_path / "a.spk")

    assert [labels.tokens(item).tolist() for item in range(5)] == [[], [3], [4, 5], [], [6]]
    assert labels.item_column("length").tolist() == [0, 1, 2, 0, 1]
    assert (labels.n_rows, labels.shape) == (1, (5, 1, V))


@pytest.mark.parametrize("sequences", [[], [[]], [[1], [2]]])
def test_sequences_without_any_row_are_refused(tmp_path, sequences):
    with pytest.raises(
        DataError, match=f"a.spk: there is no row to capture, as none of the {len(sequences)} sequences"
    ):
        softpack.capture(Model(), sequences, tmp_path / "a.spk")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("codec", "settings"),
    [("topk", {"k": 5, "tail": "bucket"}), ("quantize", {}), ("lowrank", {}), ("klt", {"target_bits": 60})],
)
def test_codecs_are_fitted_and_fed(tmp_path, codec, settings):
    model, sequences = Model(), make_sequences(40)
    softpack.capture(model, sequences, tmp_path / "a.spk", codec, batch_tokens=64, **settings)
    labels = softpack.open(tmp_path / "a.spk")
    items, views = labels.cells()
    teacher = torch.cat([asked(model, tokens) for tokens in sequences if len(tokens) > 1])
    decoded = torch.log_softmax(labels.read(items, views), 1)

    assert softpack.verify(tmp_path / "a.spk").problems == ()
    assert (decoded.argmax(1) == teacher.argmax(1)).float().mean() > 0.8
    assert labels.model.can_encode == (codec != "klt")  # whose encoder is left out
    assert labels.file.commit.number == 0


def test_forced_tokens_are_kept_beside(tmp_path):
    model, sequences = Model(), make_sequences()
    softpack.capture(model, sequences, tmp_path / "a.spk", "topk", k=2, forced=(3, 0))
    labels = softpack.open(tmp_path / "a.spk")
    item = max(range(len(sequences)), key=lambda n: len(sequences[n]))
    views = np.arange(len(sequences[item]) - 1)

    found = labels.forced(np.full(len(views), item), views)
    expected = torch.log_softmax(asked(model, sequences[item]), 1)[:, [3, 0]]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_the_labels_come_from_is_said(tmp_path):
    model, sequences = Model(), make_sequences()
    softpack.capture(model, sequences, tmp_path / "a.spk", "raw", notes={"corpus": "fortunes"})
    labels = softpack.open(tmp_path / "a.spk")

    assert labels.fingerprints == {
        "teacher": teacher_fingerprint(model),
        "data": Sequences.of(sequences).fingerprint,
    }
    labels.check_fingerprints(teacher=model)
    with pytest.raises(DataError, match="come from another teacher"):
        labels.check_fingerprints(teacher=Model(seed=1))
    assert labels.file.header.made_by["corpus"] == "fortunes"
    assert labels.file.header.made_by["encoding"] == "raw"


def test_same_input_same_bytes(tmp_path):
    for name in ("a.spk", "b.spk"):
        softpack.capture(Model(), make_sequences(), tmp_path / name, "klt", bits=30.0, batch_tokens=32)

    assert (tmp_path / "a.spk").read_bytes() == (tmp_path / "b.spk").read_bytes()


@pytest.mark.parametrize("slice_rows", [1, 3])
def test_no_more_logits_are_there_than_a_slice_has(tmp_path, monkeypatch, slice_rows):
    monkeypatch.setattr(asking, "SLICE_VALUES", slice_rows * V)
    monkeypatch.setattr("softpack.capturing.capture.SLICE_VALUES", slice_rows * V)
    model, sequences, seen = Model(), make_sequences(), []
    model.lm_head.register_forward_hook(lambda module, given, logits: seen.append(logits.numel()))
    softpack.capture(model, sequences, tmp_path / "a.spk", "raw", dtype="fp32")

    # The first two tell how the model is built.
    assert max(seen[2:]) <= slice_rows * V
    assert_captured(softpack.open(tmp_path / "a.spk"), model, sequences)


def test_a_model_that_cannot_be_taken_apart_sees_few_tokens_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("softpack.capturing.capture.SLICE_VALUES", 20 * V)
    model = Capped()
    softpack.capture(model, make_sequences(), tmp_path / "a.spk", "raw", batch_tokens=8192)

    assert max(rows * length for rows, length in model.model.calls[2:]) <= 20


def test_batches_are_of_sequences_of_like_length():
    from softpack.capturing.batches import plan_batches

    lengths = np.random.default_rng(0).integers(0, 100, 5000)
    batches = plan_batches(lengths, 1000)

    assert sorted(np.concatenate(batches).tolist()) == np.flatnonzero(lengths >= 2).tolist()
    assert all(lengths[items].max() * len(items) <= 1000 for items in batches)
    padded = sum(lengths[items].max() * len(items) for items in batches)
    assert padded < 1.03 * lengths.sum()
    assert all(np.ptp(items) < 2000 for items in batches)
    assert [items.tolist() for items in plan_batches(np.array([5000, 3]), 1000)] == [[0], [1]]


def test_the_model_is_left_as_it_was(tmp_path):
    model = Model().train()
    model.model.mix.eval()
    softpack.capture(model, make_sequences(), tmp_path / "a.spk", "raw")

    assert model.training
    assert not model.model.mix.training
    assert all(parameter.grad is None for parameter in model.parameters())


# -- bad input -----------------------------------------------------------------------------------------


class Spoiled(Model):
    """Gives something else for one token."""

    def __init__(self, token: int, value: float, which: int | slice = 0) -> None:
        super().__init__()
        self.token, self.value, self.which = token, value, which

    def forward(self, input_ids, attention_mask):
        given = super().forward(input_ids, attention_mask)
        given.logits[..., self.which] = torch.where(input_ids == self.token, self.value, given.logits[..., 0])[
            (..., None) if isinstance(self.which, slice) else ...
        ]
        return given


SPOILED = [[1, 2, 3], [4, 5, 9, 6], [7, 8]]


@pytest.mark.parametrize(
    ("value", "which", "said"),
    [
        (
            float("nan"),
            3,
            "gives nan or inf after token 2 of sequence 1, first for token 3; expected finite logits",
        ),
        (float("inf"), 3, "gives nan or inf after token 2 of sequence 1, first for token 3"),
        (-float("inf"), slice(None), "gives -inf for every token after token 2 of sequence 1; expected finite"),
    ],
)
def test_a_teacher_that_gives_no_distribution_is_refused(tmp_path, value, which, said):
    with pytest.raises(DataError, match=said):
        softpack.capture(Spoiled(9, value, which), SPOILED, tmp_path / "a.spk", "raw")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("codec", "how"), [("raw", {}), ("topk", {"k": 8, "tail": "zero"})])
def test_tokens_that_cannot_come_are_kept_as_such(tmp_path, codec, how):
    model = Spoiled(9, -float("inf"), 3)
    softpack.capture(model, SPOILED, tmp_path / "a.spk", codec, forced=(3,), **how)
    labels = softpack.open(tmp_path / "a.spk")

    assert labels[1, 2][3] == -torch.inf
    assert torch.isfinite(labels[1, 2]).any()
    assert labels.forced([1, 1], [2, 1])[:, 0].isfinite().tolist() == [False, True]


@pytest.mark.parametrize(("codec", "how"), [("klt", {"bits": 20.0}), ("lowrank", {}), ("quantize", {}),
                                            ("vqae", {"target_bits": 64})])  # fmt: skip
def test_codecs_of_all_classes_say_what_takes_tokens_that_cannot_come(tmp_path, codec, how):
    with pytest.raises(CodecError, match=r"-inf.*take --codec topk"):
        softpack.capture(Spoiled(9, -float("inf"), 3), SPOILED * 10, tmp_path / "a.spk", codec, **how)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".spk"]


def test_tokens_outside_the_vocabulary_are_refused(tmp_path):
    said = f"sequence 1: token 2 is {V}; expected 0 to {V - 1}, as the teacher has {V} tokens; tokenize with"
    with pytest.raises(DataError, match=said):
        softpack.capture(Model(), [[1, 2], [3, 4, V]], tmp_path / "a.spk", "raw")
    with pytest.raises(DataError, match="sequence 0: token 1 is -100"):
        softpack.capture(Model(), [[1, -100]], tmp_path / "a.spk", "raw")


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (3, "the teacher is a int; expected a causal language model, called as model"),
        (
            lambda input_ids, attention_mask: torch.zeros(2, 3),
            r"gives \[2, 3\] for tokens of shape \[1, 2\]; expected",
        ),
        (lambda input_ids, attention_mask: "no", "gives str for tokens of shape"),
    ],
)
def test_what_is_no_teacher_is_refused(tmp_path, teacher, said):
    with pytest.raises(DataError, match=said):
        softpack.capture(teacher, [[1, 2]], tmp_path / "a.spk", "raw")


def test_context_and_unknown_settings_are_refused_before_any_work(tmp_path):
    model = Model()
    with pytest.raises(CodecError, match="codec klt codes rows given prototypes of their items"):
        softpack.capture(model, SPOILED, tmp_path / "a.spk", "klt", context=True)
    with pytest.raises(CodecError, match="codec topk has no setting kk"):
        softpack.capture(model, SPOILED, tmp_path / "a.spk", "topk", kk=3)
    with pytest.raises(DataError, match="batch_tokens is 0; expected a whole number from 1"):
        softpack.capture(model, SPOILED, tmp_path / "a.spk", "topk", batch_tokens=0)
    with pytest.raises(DataError, match=r"forced is \[99\]; expected"):
        softpack.capture(model, SPOILED, tmp_path / "a.spk", "topk", forced=[99])


def test_a_file_that_is_there_stays(tmp_path):
    (tmp_path / "a.spk").write_bytes(b"mine")
    with pytest.raises(ExistsError, match=r"a.spk is there already; give force=True"):
        softpack.capture(Model(), SPOILED, tmp_path / "a.spk", "raw")
    assert (tmp_path / "a.spk").read_bytes() == b"mine"

    softpack.capture(Model(), SPOILED, tmp_path / "a.spk", "raw", force=True)
    assert softpack.open(tmp_path / "a.spk").n_rows == 6


# -- codec head ----------------------------------------------------------------------------------------


def test_a_matrix_of_a_model_is_found():
    model = Model()

    assert torch.equal(LanguageTeacher(model).matrix(np.array([1, 2, 3])), model.lm_head.weight)


class Scaled(Model):
    """Its logits are scaled after the matrix."""

    def forward(self, input_ids, attention_mask):
        given = super().forward(input_ids, attention_mask)
        given.logits = given.logits * 0.9
        return given


def with_config(**values) -> Model:
    model = Model()
    model.config = type("Config", (), values)()
    model.forward = lambda input_ids, attention_mask, use_cache: Model.forward(model, input_ids, attention_mask)
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Model(bias=True), "its output embeddings have a bias"),
        (Scaled(), "or something follows these"),
        (Capped(), "or something follows these"),
        (with_config(final_logit_softcapping=30.0), r"changed after the matrix \(final_logit_softcapping\)"),
        (with_config(logit_scale=0.25), r"changed after the matrix \(logit_scale\)"),
        (nn.Sequential(nn.Embedding(V, V)), "cannot be told apart"),
    ],
)
def test_models_whose_logits_are_more_than_a_matrix_are_refused_for_head(model, said):
    if isinstance(model, nn.Sequential):
        model.forward = lambda input_ids, attention_mask: model[0](input_ids)
    with pytest.raises(DataError, match=f"does not suit codec head: .*{said}.*; take --codec klt or topk"):
        LanguageTeacher(model).matrix(np.array([1, 2, 3]))


def test_codec_head_gets_hidden_states_that_its_matrix_makes_logits_of():
    model = Model()
    teacher = LanguageTeacher(model)
    teacher.probe(np.array([1, 2]))
    asker = asking.Asker(teacher, Sequences.of([[1, 2, 3, 4]]), (3,), LabelSpec(H, "hidden"))
    (block,) = asker.ask(np.array([0]))
    logits = asked(model, np.array([1, 2, 3, 4]))
    assert block.labels_BC.shape == (3, H)
    np.testing.assert_allclose(block.labels_BC @ model.lm_head.weight.detach().numpy().T, logits, atol=1e-5)
    np.testing.assert_allclose(block.replay["log_z"], logits.logsumexp(1), atol=1e-5)
    np.testing.assert_allclose(block.forced_BF, torch.log_softmax(logits, 1)[:, [3]], atol=1e-5)


def test_hidden_states_are_captured_for_head(tmp_path):
    model, sequences = Model(), make_sequences(40)
    softpack.capture(model, sequences, tmp_path / "a.spk", "head", forced=(3,))
    labels = softpack.open(tmp_path / "a.spk")
    items, views = labels.cells()
    teacher = torch.cat([asked(model, tokens) for tokens in sequences if len(tokens) > 1])

    assert labels.shape[2] == V
    assert (labels.read(items, views).argmax(1) == teacher.argmax(1)).float().mean() > 0.8
    expected = torch.log_softmax(teacher, 1)[:, [3]]
    torch.testing.assert_close(labels.forced(items, views), expected, atol=1e-5, rtol=0)


def test_head_is_fitted_to_sequences_of_all_places(tmp_path, monkeypatch):
    # The first rows of a corpus that is sorted are all alike.
    model, sequences, seen = Model(), make_sequences(64), []
    monkeypatch.setattr("softpack.capturing.capture.n_first", lambda codec: 60)

    def fit_model(source, *given, **how):
        seen.append(source.rows.item_B)
        return real(source, *given, **how)

    real = run.fit_model
    monkeypatch.setattr(run, "fit_model", fit_model)
    softpack.capture(model, sequences, tmp_path / "a.spk", "head", batch_tokens=32)
    assert len(seen[0]) == 60
    assert seen[0].max() > len(sequences) // 2
    assert len(set(seen[0] // 16)) > 1


def test_a_setting_that_head_does_not_have_is_refused_before_the_teacher_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(asking.Asker, "ask", lambda asker, items: pytest.fail("it was asked"))
    with pytest.raises(CodecError, match="k"):
        softpack.capture(Model(), make_sequences(), tmp_path / "a.spk", "head", k=3)


def test_a_cap_of_a_part_that_knows_language_is_seen():
    model = with_config(get_text_config=lambda config: type("Config", (), {"final_logit_softcapping": 30.0})())
    with pytest.raises(DataError, match=r"changed after the matrix \(final_logit_softcapping\)"):
        LanguageTeacher(model).matrix(np.array([1, 2, 3]))


def test_a_model_with_a_configuration_need_not_know_of_caches(tmp_path):
    model, sequences = Model(), make_sequences()
    model.config = object()
    softpack.capture(model, sequences, tmp_path / "a.spk", "raw", dtype="fp32")
    assert_captured(softpack.open(tmp_path / "a.spk"), model, sequences)


@pytest.mark.parametrize("name", ["seed", "torch", "encoding", "teacher"])
def test_notes_do_not_stand_for_what_a_file_says_itself(tmp_path, monkeypatch, name):
    monkeypatch.setattr(asking.Asker, "ask", lambda asker, items: pytest.fail("it was asked"))
    with pytest.raises(DataError, match=rf"a\.spk: notes have {name}, which the file says itself"):
        softpack.capture(Model(), make_sequences(), tmp_path / "a.spk", "klt", notes={name: 1})
    assert not list(tmp_path.glob("a.spk*"))
