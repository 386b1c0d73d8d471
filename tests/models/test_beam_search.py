"""Beam search, greedy and sampled decoding over an invented vocabulary of a few tokens."""

from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from models.beam_search import Decoding, Hypotheses, beam_search, greedy_search, sample
from tests.support.reference_search import (
    allowed_log_probs,
    competing_search,
    exhaustive_search,
    greedy,
    leading_search,
    score_of,
)

CPU = torch.device("cpu")


class Language:
    """Next-token logits that depend on the study and all tokens so far; the state keeps the tokens of every row.

    ending: what is added to the logit of the word that ends a report
    """

    def __init__(self, seed: int, words: int, studies: int, beams: int, eos_id: int, ending: float = 0.0):
        self.seed, self.words, self.beams = seed, words, beams
        self.eos_id, self.ending = eos_id, ending
        self.written: list[list[int]] = [[] for _ in range(studies * beams)]
        self.steps = 0

    def logits(self, study: int, words: list[int]) -> Tensor:
        key = hash((self.seed, study, *words)) % 2**31
        values = 2 * torch.randn(self.words, generator=torch.Generator().manual_seed(key))
        values[self.eos_id] += self.ending
        return values

    def step(self, token_ids: Tensor, state: "Language") -> Tensor:
        assert state is self
        if self.steps:  # the first call passes BOS
            for row, token in zip(self.written, token_ids.tolist(), strict=True):
                row.append(token)
        self.steps += 1
        return torch.stack([self.logits(row // self.beams, words) for row, words in enumerate(self.written)])

    def reorder(self, rows: Tensor) -> None:
        assert torch.equal(rows // self.beams, torch.arange(len(rows)) // self.beams), "rows left their study"
        self.written = [list(self.written[row]) for row in rows.tolist()]


def decoding(language, studies: int, longest: int, special: dict[str, int], **settings) -> Decoding:
    return Decoding(studies, longest, language.words, device=CPU, **special, **settings)


def search(language, studies: int, beams: int, longest: int, special: dict[str, int], **settings) -> Hypotheses:
    arguments = (language.step, language, decoding(language, studies, longest, special, **settings))
    return greedy_search(*arguments) if beams == 1 else beam_search(*arguments, beams)


def written_words(token_ids: Tensor, eos_id: int) -> list[int]:
    """The ids up to EOS; only padding may follow."""
    ids = token_ids.tolist()
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids


DISTINCT = {"bos_id": 5, "eos_id": 6, "pad_id": 0}
SHARED = {"bos_id": 0, "eos_id": 0, "pad_id": 0}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20), studies=st.integers(1, 3), beams=st.integers(2, 5), longest=st.integers(1, 7),
    ending=st.sampled_from([-3.0, 0.0, 2.0]), special=st.sampled_from([DISTINCT, SHARED]),
    words=st.sampled_from([7, 9]),
)
def test_equals_a_plain_search_of_every_study(seed, studies, beams, longest, ending, special, words):
    language = Language(seed, words, studies, beams, special["eos_id"], ending)
    found = search(language, studies, beams, longest, special)
    forbidden = set(special.values()) - {special["eos_id"]}
    for study in range(studies):
        ids, log_probs = leading_search(
            lambda words, study=study: language.logits(study, words), beams, longest, special["eos_id"], forbidden
        )
        assert written_words(found.token_ids[study], special["eos_id"]) == ids
        assert found.token_ids[study, len(ids) :].tolist() == [special["pad_id"]] * (longest - len(ids))
        assert found.scores[study].item() == pytest.approx(score_of((ids, log_probs)), abs=1e-5)
        expected = log_probs + [0.0] * (longest - len(ids))
        assert found.token_log_probs[study].tolist() == pytest.approx(expected, abs=1e-5)


def test_never_worse_than_a_search_in_which_finished_hypotheses_take_places():
    """1,500 random languages; in some of them, the competition drops the best report."""
    better = 0
    for first in range(0, 1500, 50):
        beams, longest, words = 2 + first // 50 % 3, 2 + first // 150 % 5, 4 + first // 50 % 4
        special = {"bos_id": 0, "eos_id": 1, "pad_id": 0}
        language = Language(first, words, 50, beams, 1)
        found = search(language, 50, beams, longest, special)
        for study in range(50):
            competing = score_of(competing_search(partial(language.logits, study), beams, longest, 1, {0}))
            assert found.scores[study].item() >= competing - 1e-5
            better += found.scores[study].item() > competing + 1e-5
    assert better > 10


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), longest=st.integers(1, 4), ending=st.sampled_from([-2.0, 0.0, 2.0]))
def test_equals_an_exhaustive_search_with_a_beam_for_every_unfinished_hypothesis(seed, longest, ending):
    special, words = {"bos_id": 0, "eos_id": 1, "pad_id": 0}, 5
    beams = max(2, 3 ** (longest - 1))  # tokens 2 to 4
    language = Language(seed, words, 1, beams, 1, ending)
    found = search(language, 1, beams, longest, special)
    expected = exhaustive_search(lambda tokens: language.logits(0, tokens), longest, 1, {0})
    assert found.scores[0].item() == pytest.approx(score_of(expected), abs=1e-5)
    assert written_words(found.token_ids[0], 1) == expected[0]


def test_a_finished_hypothesis_that_falls_behind_is_not_lost():
    """Two unfinished hypotheses overtake the finished one, and become worse than it one token later."""
    uncertain = dict.fromkeys(range(5, 13), 0.125)
    script = Script(2, {
        (): {1: 0.6, 2: 0.4}, (1,): {1: 0.55, 3: 0.45}, (1, 1): uncertain, (1, 3): uncertain,
    }, words=13)
    found = search(script, 1, 2, 3, {"bos_id": 4, "eos_id": 2, "pad_id": 0})
    assert (0.6 * 0.55 * 0.125) ** (1 / 3) < 0.4 < (0.6 * 0.45) ** 0.5
    assert found.token_ids[0].tolist() == [2, 0, 0]
    assert found.scores[0].exp().item() == pytest.approx(0.4, abs=1e-3)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), special=st.sampled_from([DISTINCT, SHARED]))
def test_one_beam_is_greedy(seed, special):
    language = Language(seed, 7, 2, 1, special["eos_id"])
    found = search(language, 2, 1, 6, special)
    for study in range(2):
        expected = greedy(
            lambda words, study=study: language.logits(study, words), 6, special["eos_id"],
            set(special.values()) - {special["eos_id"]},
        )
        assert written_words(found.token_ids[study], special["eos_id"]) == expected


@pytest.mark.parametrize("seed", range(4))
def test_many_beams_find_the_best_report_of_all(seed):
    """With a beam for every possible report, the result has the best mean log-probability of all."""
    special = {"bos_id": 3, "eos_id": 2, "pad_id": 0}  # ids 1 and 4 remain
    language = Language(seed, 5, 1, 40, 2)
    found = search(language, 1, 40, 4, special)
    best = exhaustive_search(lambda tokens: language.logits(0, tokens), 4, 2, {0, 3})
    assert written_words(found.token_ids[0], 2) == best[0]
    assert found.scores[0].item() == pytest.approx(score_of(best), abs=1e-5)


class Script:
    """Scripted log-probabilities for every prefix; the state keeps the tokens of every row."""

    def __init__(self, beams: int, probabilities: dict[tuple[int, ...], dict[int, float]], words: int = 5):
        self.words = words
        self.probabilities = probabilities
        self.written: list[list[int]] | None = None
        self.beams = beams

    def step(self, token_ids: Tensor, state: "Script") -> Tensor:
        if self.written is None:
            self.written = [[] for _ in range(self.beams)]
        else:
            self.written = [[*row, token] for row, token in zip(self.written, token_ids.tolist(), strict=True)]
        logits = torch.full((self.beams, self.words), -30.0)
        for row, words in enumerate(self.written):
            for word, probability in self.probabilities.get(tuple(words), {}).items():
                logits[row, word] = torch.tensor(probability).log()
        return logits

    def reorder(self, rows: Tensor) -> None:
        self.written = [list(self.written[row]) for row in rows.tolist()]


def test_finished_hypothesis_keeps_its_score_and_one_slot():
    """A report that ends early stays unchanged while the other beam continues, and wins by its mean."""
    script = Script(2, {
        (): {1: 0.6, 3: 0.4}, (1,): {2: 0.9, 1: 0.1},
        (3,): {3: 1.0}, (3, 3): {3: 0.6, 1: 0.4}, (3, 3, 3): {1: 0.9, 3: 0.1},
    })
    special = {"bos_id": 4, "eos_id": 2, "pad_id": 0}
    found = search(script, 1, 2, 4, special)
    assert found.token_ids[0].tolist() == [1, 2, 0, 0]
    assert found.scores[0].item() == pytest.approx(torch.tensor([0.6, 0.9]).log().mean().item(), abs=1e-4)
    assert found.token_log_probs[0, 2:].tolist() == [0.0, 0.0]
    assert [3, 3, 3] in script.written  # the other beam continued to the end


def test_slots_go_to_the_best_means():
    """After two tokens both unfinished hypotheses have a better mean than the finished one, but one has a worse sum."""
    script = Script(2, {
        (): {1: 0.6, 2: 0.4}, (1,): {1: 0.55, 3: 0.45}, (1, 1): {1: 0.5, 3: 0.5}, (1, 3): {2: 0.99, 1: 0.01},
    })
    found = search(script, 1, 2, 3, {"bos_id": 4, "eos_id": 2, "pad_id": 0})
    assert 0.6 * 0.45 < 0.4 < (0.6 * 0.45) ** 0.5
    assert found.token_ids[0].tolist() == [1, 3, 2]


def test_score_is_a_mean_so_that_long_reports_are_not_punished():
    """The longer report has a lower sum of log-probabilities, but a higher mean."""
    script = Script(2, {(): {1: 0.6, 2: 0.4}, (1,): {1: 0.6, 2: 0.4}, (1, 1): {2: 0.9, 1: 0.1}})
    found = search(script, 1, 2, 3, {"bos_id": 4, "eos_id": 2, "pad_id": 0})
    assert found.token_ids[0].tolist() == [1, 1, 2]
    assert 0.6 * 0.6 * 0.9 < 0.4
    assert found.scores[0].exp().item() == pytest.approx((0.6 * 0.6 * 0.9) ** (1 / 3), abs=1e-4)


def test_search_stops_when_every_slot_is_finished():
    language = Language(0, 7, 2, 2, 6, ending=50.0)
    found = search(language, 2, 2, 30, DISTINCT)
    assert language.steps <= 3
    assert found.token_ids.shape == (2, 30) and (found.token_ids[:, 0] == 6).all()


def test_padding_and_bos_are_never_written():
    class Stubborn(Language):
        def logits(self, study: int, words: list[int]) -> Tensor:
            values = super().logits(study, words)
            values[[0, 5]] = 100.0
            return values

    language = Stubborn(0, 7, 2, 3, 6, ending=-50.0)
    assert not set(search(language, 2, 3, 6, DISTINCT).token_ids.flatten().tolist()) & {0, 5}
    language = Stubborn(0, 7, 4, 1, 6, ending=-50.0)
    drawn = sample(language.step, language, decoding(language, 4, 6, DISTINCT), generator=torch.Generator())
    assert not set(drawn.token_ids.flatten().tolist()) & {0, 5}


@pytest.mark.parametrize("beams", [1, 3])
def test_excluded_tokens_are_never_generated(beams):
    class Favourite(Language):
        def logits(self, study: int, words: list[int]) -> Tensor:
            values = super().logits(study, words)
            values[3] = 100.0
            return values

    assert 3 in search(Favourite(0, 7, 2, beams, 6, ending=-50.0), 2, beams, 6, DISTINCT).token_ids
    without = search(Favourite(0, 7, 2, beams, 6, ending=-50.0), 2, beams, 6, DISTINCT, excluded_ids=(3,))
    assert 3 not in without.token_ids and torch.isfinite(without.scores).all()


def test_studies_of_a_batch_are_searched_apart():
    together = search(Language(3, 9, 3, 3, 6), 3, 3, 6, DISTINCT)
    alone = search(Language(3, 9, 1, 3, 6), 1, 3, 6, DISTINCT)
    assert torch.equal(together.token_ids[0], alone.token_ids[0])


# Sampling


def draw(seed: int, temperature: float = 1.0, studies: int = 3, longest: int = 8) -> tuple[Language, Hypotheses]:
    language = Language(1, 9, studies, 1, 6)
    generator = torch.Generator().manual_seed(seed)
    found = sample(language.step, language, decoding(language, studies, longest, DISTINCT), temperature, generator)
    return language, found


def test_samples_are_seeded():
    assert torch.equal(draw(0)[1].token_ids, draw(0)[1].token_ids)
    assert not torch.equal(draw(0)[1].token_ids, draw(1)[1].token_ids)


def test_sampling_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    draw(0)
    assert torch.equal(torch.rand(1), expected)


def test_scores_of_samples_are_those_of_the_model_whatever_the_temperature():
    language, found = draw(2, temperature=3.0)
    for study in range(3):
        words = written_words(found.token_ids[study], 6)
        log_probs = [
            allowed_log_probs(language.logits(study, words[:i]), {0, 5})[word].item() for i, word in enumerate(words)
        ]
        padding = [0.0] * (8 - len(words))
        assert found.token_log_probs[study].tolist() == pytest.approx(log_probs + padding, abs=1e-5)
        assert found.scores[study].item() == pytest.approx(sum(log_probs) / len(words), abs=1e-5)
        assert found.token_ids[study, len(words) :].tolist() == [0] * (8 - len(words))


def test_cold_sampling_is_greedy():
    language, found = draw(0, temperature=1e-4)
    for study in range(3):
        expected = greedy(lambda words, study=study: language.logits(study, words), 8, 6, {0, 5})
        assert written_words(found.token_ids[study], 6) == expected


def test_words_are_drawn_by_their_probability():
    class OneStudy(Language):
        def logits(self, study: int, words: list[int]) -> Tensor:
            return super().logits(0, words)

    language = OneStudy(1, 9, 1000, 1, 6)
    generator = torch.Generator().manual_seed(0)
    found = sample(language.step, language, decoding(language, 1000, 1, DISTINCT), generator=generator)
    shares = found.token_ids.flatten().bincount(minlength=9).double() / 1000
    probabilities = allowed_log_probs(language.logits(0, []), {0, 5}).exp()
    torch.testing.assert_close(shares, probabilities, atol=0.05, rtol=0)


def test_temperature_must_be_positive():
    with pytest.raises(AssertionError, match="temperature 0 is not positive"):
        draw(0, temperature=0)
